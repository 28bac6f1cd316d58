"""The kinds of task, one object each."""

from plait.kinds.base import Kind, Place
from plait.kinds.table import KINDS, LOSSES, check_loss, kind_of

__all__ = ["KINDS", "LOSSES", "Kind", "Place", "check_loss", "kind_of"]
