"""The kinds of task, one object each."""

from plait.kinds.base import Kind, Place
from plait.kinds.table import KINDS, kind_of

__all__ = ["KINDS", "Kind", "Place", "kind_of"]
