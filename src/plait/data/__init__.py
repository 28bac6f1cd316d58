"""Tables in, batches out: sources, column types, splits, and the mixing of tasks into batches."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plait.data.columns import Column
    from plait.data.dataset import Dataset
    from plait.data.declare import DataSpec, SplitSpec, TableSpec, TaskSpec
    from plait.data.errors import DataError
    from plait.data.loading import load
    from plait.data.mixing import ByTask, Feed, Rows, SideBySide, auto_batch, feed_for
    from plait.data.preparation import Preparation

# Looking at tables loads no torch: what makes batches of them is fetched when it is first used.
_HOMES = {
    "ByTask": "mixing",
    "Column": "columns",
    "DataError": "errors",
    "DataSpec": "declare",
    "Dataset": "dataset",
    "Feed": "mixing",
    "Preparation": "preparation",
    "Rows": "mixing",
    "SideBySide": "mixing",
    "SplitSpec": "declare",
    "TableSpec": "declare",
    "TaskSpec": "declare",
    "auto_batch": "mixing",
    "feed_for": "mixing",
    "load": "loading",
}

__all__ = [
    "ByTask",
    "Column",
    "DataError",
    "DataSpec",
    "Dataset",
    "Feed",
    "Preparation",
    "Rows",
    "SideBySide",
    "SplitSpec",
    "TableSpec",
    "TaskSpec",
    "auto_batch",
    "feed_for",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'plait.data' has no attribute {name!r}")
    return getattr(import_module(f"plait.data.{_HOMES[name]}"), name)
