"""The task of every row, for modules deep inside an encoder that treat tasks differently."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from plait.batch import Part, Parts


class RowTasks:
    """Whose the rows are that run now; modules between need not pass it on.

    ``made`` is what was worked out for this forward, whatever rows run.
    """

    def __init__(self) -> None:
        self._task: Tensor | None = None
        self._source: Tensor | None = None
        self.made: Any = None

    @property
    def task(self) -> Tensor:
        """The tasks' positions [rows]; ``RuntimeError`` outside of :meth:`to`."""
        if self._task is None:
            raise RuntimeError("call the network, not its parts: a row's task is not known here")
        return self._task

    @property
    def source(self) -> Tensor:
        """The rows of the batch [rows] whose inputs these have: equal ones have equal inputs."""
        if self._source is None:
            return torch.arange(len(self.task), device=self.task.device)
        return self._source

    @contextmanager
    def to(self, task: Tensor, made: Any = None, source: Tensor | None = None) -> Iterator[None]:
        """Inside, row b of everything that runs belongs to task ``task[b]``."""
        before = self._task, self.made, self._source
        self._task, self.made, self._source = task, made, source
        try:
            yield
        finally:
            self._task, self.made, self._source = before

    @contextmanager
    def among(self, rows: Tensor) -> Iterator[None]:
        """Inside, of the rows at hand only these run, in this order."""
        source = None if self._source is None else self._source.index_select(0, rows)
        with self.to(self.task.index_select(0, rows), self.made, source):
            yield


def row_each(parts: Parts, rows: Tensor) -> tuple[dict[str, Part], Tensor]:
    """The parts with one row for each record [N], and the records in the order of their rows.

    ``rows`` [N] are the records' rows in the parts as they are.
    """
    if len(parts) == 1:
        ((schema, part),) = parts.items()
        found = {name: value.index_select(0, rows) for name, value in part.items()}
        return {schema: found}, torch.arange(rows.shape[0], device=rows.device)
    pieces: dict[str, Part] = {}
    order, start = [], 0
    for schema, part in parts.items():
        length = len(next(iter(part.values())))
        mine = torch.nonzero((rows >= start) & (rows < start + length)).flatten()
        if len(mine):
            local = rows[mine] - start
            pieces[schema] = {name: value.index_select(0, local) for name, value in part.items()}
            order.append(mine)
        start += length
    return pieces, torch.cat(order)
