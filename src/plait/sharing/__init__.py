"""Sharing: how tasks share a network, one architecture a file."""

from plait.networks.base import Sharing
from plait.sharing.hard import Hard
from plait.sharing.mmoe import Mmoe

__all__ = ["Hard", "Mmoe", "Sharing"]
