"""Networks: encoders by input type, stacked heads, and the network that joins them."""

from plait.networks.base import (
    Bank,
    Encoder,
    Features,
    MakeEncoder,
    Sharing,
    TaskBank,
    Trunk,
    bank_slices,
    seeded,
    task_slices,
)
from plait.networks.encoder import check_encoder, make_encoder
from plait.networks.extending import extended
from plait.networks.frozen import features_of
from plait.networks.heads import Heads, prior_of, priors_of
from plait.networks.network import Network, Outputs, build_network
from plait.networks.routing import routed_linear
from plait.networks.side_by_side import SideBySide, build_side_by_side, stackable

__all__ = [
    "Bank",
    "Encoder",
    "Features",
    "Heads",
    "MakeEncoder",
    "Network",
    "Outputs",
    "Sharing",
    "SideBySide",
    "TaskBank",
    "Trunk",
    "bank_slices",
    "build_network",
    "build_side_by_side",
    "check_encoder",
    "extended",
    "features_of",
    "make_encoder",
    "prior_of",
    "priors_of",
    "routed_linear",
    "seeded",
    "stackable",
    "task_slices",
]
