"""Adapting: small modules on a frozen network, one paper a file."""

from plait.adapting.adapted import AdaptedTrunk, build_adapted
from plait.adapting.base import Adapted, Adapter, SiteBank
from plait.adapting.lora import Lora
from plait.adapting.routing import Routing

__all__ = ["Adapted", "AdaptedTrunk", "Adapter", "Lora", "Routing", "SiteBank", "build_adapted"]
