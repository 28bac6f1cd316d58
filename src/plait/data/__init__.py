"""Tables in, batches out: sources, column types, splits, and the mixing of tasks into batches."""

from plait.data.columns import Column
from plait.data.dataset import Dataset
from plait.data.declare import DataSpec, SplitSpec, TableSpec, TaskSpec
from plait.data.errors import DataError
from plait.data.loading import load
from plait.data.mixing import ByTask, Feed, Rows, SideBySide, auto_batch, feed_for
from plait.data.preparation import Preparation

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
