"""Flows: procedures that cross families, as functions."""

from plait.flows.merge import merge

__all__ = ["merge"]
