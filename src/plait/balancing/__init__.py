"""How per-task losses become one update; one paper a file."""

from plait.balancing.base import Balancer, Rung, Signals

__all__ = ["Balancer", "Rung", "Signals"]
