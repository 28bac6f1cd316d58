"""Adapting: small modules on a frozen network, one paper a file."""

from plait.adapting.adapted import AdaptedTrunk, build_adapted
from plait.adapting.base import AdaptedLayer, Adapter, Routing
from plait.adapting.lora import Lora

__all__ = ["AdaptedLayer", "AdaptedTrunk", "Adapter", "Lora", "Routing", "build_adapted"]
