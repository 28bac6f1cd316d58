"""Strategies compared: studies, their store, and what they found."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Reading results and writing reports loads no torch: the rest is fetched when it is first used.
_HOMES = {
    "Plan": "plan",
    "Predictor": "predictor",
    "Progress": "progress",
    "Strategy": "strategy",
    "Study": "study",
    "Tune": "tune",
    "compare": "comparison",
    "load": "predictor",
}

__all__ = ["Plan", "Predictor", "Progress", "Strategy", "Study", "Tune", "compare", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'plait.comparing' has no attribute {name!r}")
    return getattr(import_module(f"plait.comparing.{_HOMES[name]}"), name)
