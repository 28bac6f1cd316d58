"""Sharing: how tasks share a network, one architecture a file."""

from plait.networks.base import Sharing
from plait.sharing.adatt import AdaTT
from plait.sharing.cgc import Cgc
from plait.sharing.hard import Hard
from plait.sharing.mmoe import Mmoe
from plait.sharing.ple import Ple
from plait.sharing.use import ExpertUse, expert_use

__all__ = ["AdaTT", "Cgc", "ExpertUse", "Hard", "Mmoe", "Ple", "Sharing", "expert_use"]
