"""Many tasks, one model.

Declare your tasks once; plait turns them into one model in any of the known ways, judges every way
by one ruler against separate single-task models, and hands over the best.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Importing plait loads no torch: a name is fetched from its room when it is first used.
_ROOMS = {
    "Batch": "plait.batch",
    "Labels": "plait.batch",
    "Records": "plait.batch",
    "Task": "plait.task",
    "TaskSet": "plait.task",
    "Dataset": "plait.data",
    "Network": "plait.networks",
    "Losses": "plait.training",
    "Training": "plait.training",
    "backward": "plait.training",
    "fit": "plait.training",
    "train": "plait.training",
    "MultiTaskClassifier": "plait.tabular",
    "MultiTaskEstimator": "plait.tabular",
    "MultiTaskRegressor": "plait.tabular",
    "Study": "plait.comparing",
    "compare": "plait.comparing",
    "load": "plait.comparing",
    "merge": "plait.flows",
    "methods": "plait.method",
    "resolve": "plait.method",
    "track": "plait.comparing.tracking",
}

__all__ = [
    "Batch",
    "Dataset",
    "Labels",
    "Losses",
    "MultiTaskClassifier",
    "MultiTaskEstimator",
    "MultiTaskRegressor",
    "Network",
    "Records",
    "Study",
    "Task",
    "TaskSet",
    "Training",
    "backward",
    "compare",
    "fit",
    "load",
    "merge",
    "methods",
    "resolve",
    "track",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'plait' has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
