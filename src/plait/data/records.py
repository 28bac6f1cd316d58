"""The records of a data set by head group, stored so that those of any rows are one gather."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from plait.batch import Labels
from plait.data.stores import spans

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class TaskLabels:
    """All labels of one task: rows [n], what the network learns [n], and the user's own values [n].

    ``truth`` None says that both are the same.
    """

    rows: Array
    target: Array
    truth: Array | None = None
    weight: Array | None = None
    group: Array | None = None

    @property
    def values(self) -> Array:
        """The labels in the user's units."""
        return self.target if self.truth is None else self.truth


class RecordStore:
    """The records of one head group, ordered by row and then task.

    ``row`` [n] dataset rows, ``task`` [n] positions in the group, ``target`` [n] as in
    :class:`plait.batch.Labels`.
    """

    def __init__(self, labels: Sequence[TaskLabels], rows: int) -> None:
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
        self.target = np.concatenate([each.target for each in labels])[order]
        whole = [each.truth is None for each in labels]
        self._truth = (
            None if all(whole) else np.concatenate([each.values for each in labels])[order]
        )
        self.weight = self._optional([each.weight for each in labels], labels, 1.0, order)
        self.group = self._optional([each.group for each in labels], labels, -1, order)
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
        """Labels in the user's units: class numbers as integers, amounts as float64."""
        if self._truth is not None:
            return self._truth[place]
        found = self.target[place]
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
        return Labels(
            task=torch.from_numpy(self.task[place].astype(np.int64)),
            rows=torch.from_numpy(whose),
            target=torch.from_numpy(self.target[place]),
            weight=None if self.weight is None else torch.from_numpy(self.weight[place]),
            group=None if self.group is None else torch.from_numpy(self.group[place]),
        )
