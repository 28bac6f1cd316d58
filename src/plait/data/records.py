"""The records of a data set by head group, stored so that those of any rows are one gather."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from plait.batch import Labels
from plait.data.stores import spans
from plait.kinds import Place

Array = np.ndarray[Any, Any]


UNDECLARED = -2  # the group of a task's rows where only other tasks of its head group have groups


@dataclass(frozen=True, kw_only=True)
class TaskLabels:
    """All labels of one task: rows [n], what the network learns [n], and the user's own values [n].

    ``truth`` None says that both are the same. Where positions are labelled, ``target`` is [n, ...]
    with -1 or NaN where there is none, and ``lengths`` [n] are those of whole sequences. ``group``
    is -1 for a row of nobody's.
    """

    rows: Array
    target: Array
    truth: Array | None = None
    weight: Array | None = None
    group: Array | None = None
    lengths: Array | None = None

    @property
    def values(self) -> Array:
        """The labels in the user's units."""
        return self.target if self.truth is None else self.truth


class RecordStore:
    """The records of one head group, ordered by row and then task.

    ``row`` [n] dataset rows, ``task`` [n] positions in the group, ``target`` [n] as in
    :class:`plait.batch.Labels`.
    """

    def __init__(self, labels: Sequence[TaskLabels], rows: int, place: Place = "row") -> None:
        self.axes = {"row": 0, "token": 1, "pixel": 2}[place]
        self.tasks = len(labels)
        small = np.int16 if self.tasks < 2**15 else np.int32
        row = np.concatenate([each.rows for each in labels]).astype(np.int64)
        task = np.repeat(np.arange(self.tasks, dtype=small), [len(each.rows) for each in labels])
        if self.tasks == 1 and bool((row[1:] > row[:-1]).all()):
            order = np.arange(len(row))
        else:
            order = np.lexsort((task, row))
        self.row = row[order]
        self.task = task[order]
        self.target = _alike([each.target for each in labels])
        if not np.array_equal(order, np.arange(len(order))):
            self.target = self.target[order]
        whole = [each.truth is None for each in labels]
        self._truth = (
            None if all(whole) else np.concatenate([each.values for each in labels])[order]
        )
        self.weight = self._optional([each.weight for each in labels], labels, 1.0, order)
        self.group = self._optional([each.group for each in labels], labels, UNDECLARED, order)
        self.indptr = np.searchsorted(self.row, np.arange(rows + 1))

    @staticmethod
    def _optional(
        found: Sequence[Array | None], labels: Sequence[TaskLabels], default: float, order: Array
    ) -> Array | None:
        if all(each is None for each in found):
            return None
        dtype = np.float32 if isinstance(default, float) else np.int64
        filled = [
            np.full(len(own.rows), default, dtype) if each is None else each.astype(dtype)
            for each, own in zip(found, labels, strict=True)
        ]
        return np.concatenate(filled)[order]

    def __len__(self) -> int:
        return len(self.row)

    def truth(self, place: Array) -> Array:
        """Labels in the user's units: class numbers as integers, amounts as float64.

        Where positions are labelled, as they are kept.
        """
        if self._truth is not None:
            return self._truth[place]
        found = self.target[place]
        if self.axes:
            return found
        return found if found.dtype == np.int64 else found.astype(np.int64)

    @cached_property
    def _by_task(self) -> tuple[Array, Array]:
        order = np.argsort(self.task, kind="stable")
        return order, np.searchsorted(self.task[order], np.arange(self.tasks + 1))

    def of_task(self, position: int) -> Array:
        """The places of one task's records, ascending by row."""
        order, edges = self._by_task
        return order[edges[position] : edges[position + 1]]

    def of_rows(self, rows: Array, wanted: Array | None) -> tuple[Array, Array]:
        """The places of the records of ``rows`` [B] and the position in ``rows`` of each.

        ``wanted`` [tasks] keeps the records of some tasks. Sorted by task, then as in ``rows``.
        """
        start = self.indptr[rows]
        length = self.indptr[rows + 1] - start
        place = spans(start, length)
        whose = np.repeat(np.arange(len(rows)), length)
        task = self.task[place]
        if wanted is not None:
            keep = wanted[task]
            place, whose, task = place[keep], whose[keep], task[keep]
        if self.tasks > 1:
            order = np.argsort(task, kind="stable")
            place, whose = place[order], whose[order]
        return place, whose

    def labels(self, place: Array, whose: Array) -> Labels:
        """The records at some places, as the labels of the rows numbered by ``whose``."""
        import torch

        target, valid = self.target[place], None
        if self.axes:
            target, valid = _known(target, self.axes)
        return Labels(
            task=torch.from_numpy(self.task[place].astype(np.int64)),
            rows=torch.from_numpy(whose),
            target=torch.from_numpy(target),
            weight=None if self.weight is None else torch.from_numpy(self.weight[place]),
            group=None if self.group is None else torch.from_numpy(self.group[place]),
            valid=None if valid is None else torch.from_numpy(valid),
        )


def _alike(arrays: Sequence[Array]) -> Array:
    """Labels of several tasks, one below the other, filled up to one shape."""
    shape = [max(sizes) for sizes in zip(*(each.shape[1:] for each in arrays), strict=True)]
    filled = []
    for each in arrays:
        after = [most - size for most, size in zip(shape, each.shape[1:], strict=True)]
        nothing = np.nan if each.dtype.kind == "f" else -1
        wider = [(0, 0), *((0, more) for more in after)]
        filled.append(np.pad(each, wider, constant_values=nothing) if any(after) else each)
    return filled[0] if len(filled) == 1 else np.concatenate(filled)


def _known(target: Array, dimensions: int) -> tuple[Array, Array]:
    """Labels [n, ...] with 0 where there is none, and which positions have one.

    ``dimensions`` is how many of the axes are positions; sequences are cut to the longest.
    """
    valid: Array = np.isfinite(target) if target.dtype.kind == "f" else target >= 0
    while valid.ndim > 1 + dimensions:
        valid = np.asarray(valid.all(-1))
    if dimensions == 1:
        longest = int(np.flatnonzero(valid.any(0)).max(initial=0)) + 1
        target, valid = target[:, :longest], valid[:, :longest]
    wide = valid.reshape(*valid.shape, *[1] * (target.ndim - valid.ndim))
    return np.where(wide, target, target.dtype.type(0)), valid
