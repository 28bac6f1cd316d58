"""Recipes as YAML files: read with every mistake located, written back exactly."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Reading a merge's recipe loads no torch: what studies need is fetched when it is first used.
_HOMES = {
    "RecipeError": "document",
    "StudySpec": "study",
    "loads": "study",
    "read": "study",
    "write": "study",
}

__all__ = ["RecipeError", "StudySpec", "loads", "read", "write"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'plait.recipes' has no attribute {name!r}")
    return getattr(import_module(f"plait.recipes.{_HOMES[name]}"), name)
