"""What every export ends with: the written file gives what the model gives, or is not written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from plait.task import Task

TOLERANCE = 1e-5  # of a probability; of a value or the target's spread, whichever is larger

Array = np.ndarray[Any, Any]


class ExportError(ValueError):
    """A model that cannot be written in the form asked for; the message says what to do."""


def compare(
    what: str, tasks: Mapping[str, Task], ours: Mapping[str, Array], theirs: Mapping[str, Array]
) -> float:
    """The largest difference over tasks, as a share of what is allowed times the tolerance.

    Raises :class:`ExportError` naming the task whose predictions differ by more.
    """
    worst = 0.0
    for name, task in tasks.items():
        mine, other = np.asarray(ours[name], float), np.asarray(theirs[name], float)
        if mine.shape != other.shape:
            raise ExportError(
                f"{what}: {name!r} has shape {other.shape} where the model gives {mine.shape}"
            )
        size = np.ones_like(mine)
        if task.kind == "real":
            size = np.maximum(np.abs(mine), task.scale)
        elif task.kind == "counts":
            size = np.maximum(np.abs(mine), 1.0)
        off = np.abs(mine - other) / size
        if not (off <= TOLERANCE).all():
            row = int(np.argmax(np.nan_to_num(off, nan=np.inf).reshape(len(off), -1).max(1)))
            raise ExportError(
                f"{what}: {name!r} on row {row + 1} is {other[row]} where the model gives "
                f"{mine[row]}; nothing was written"
            )
        worst = max(worst, float(off.max(initial=0.0)))
    return worst


def need(extra: str, *libraries: str) -> None:
    """Raise :class:`ExportError` with the pip line where a library of an extra is missing."""
    from importlib.util import find_spec

    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise ExportError(f"{', '.join(missing)} is not installed: pip install 'plait[{extra}]'")
