"""What follows the heads where tasks come after one another: a click, then a purchase.

>>> from plait.task import Task
>>> tasks = TaskSet([Task(name="buy", after="click"), Task(name="click"), Task(name="late")])
>>> links = {name: tasks.before(name) for name in tasks.names}
>>> sorted(Chain(tasks, links).trainers["click"])
['buy', 'click']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plait.batch import Records
from plait.task import TaskSet

if TYPE_CHECKING:
    from plait.networks.base import Features

CERTAIN = torch.inf  # the log-odds of what is before the first task


class Chain:
    """Makes a task's log-odds of its head's and of those of the tasks before it.

    ``before``: task → those before it, the first one first. ``trainers`` are the tasks that train
    each head: its own, and all that come after it. This one leaves the log-odds as they are. Raises
    ``ValueError`` for a loss that has no log-odds.
    """

    def __init__(self, tasks: TaskSet, before: Mapping[str, Sequence[str]]) -> None:
        chained = [link for name, some in before.items() if some for link in (name, *some)]
        for name in chained:
            if tasks[name].loss != "bce":
                raise ValueError(f"task {name!r} of a chain needs bce, not {tasks[name].loss}")
        self.before = before
        self.depth = max(map(len, before.values()))
        self.trainers = {
            name: frozenset(n for n, some in before.items() if n == name or name in some)
            for name in tasks.names
        }
        self.group = tasks[chained[0]].group if chained else ""
        place = tasks.groups[self.group].position if chained else {}
        self._table = [[place[n] for n in (name, *reversed(before[name]))] for name in place]

    def wanted(self, asked: Mapping[str, Records]) -> dict[str, Records]:
        """The records asked for, and those of the tasks before them on the same rows."""
        found = dict(asked)
        if self.group in asked and len(asked[self.group]):
            keys, width = self._keys(asked[self.group])
            every = torch.unique(keys[keys >= 0])
            task = torch.div(every, width, rounding_mode="floor")
            found[self.group] = Records(task, every - task * width)
        return found

    def __call__(
        self,
        raw: Mapping[str, Tensor],
        wanted: Mapping[str, Records],
        asked: Mapping[str, Records],
        rows: int,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(raw outputs of the wanted records, rows of the batch) → (those asked for, penalties)."""
        places = self._places(wanted, asked)
        if places is None:
            return dict(raw), {}
        own = raw[self.group]
        padded = torch.cat([own[:, 0], own.new_full((1,), CERTAIN)])
        steps = padded[places.where(places >= 0, len(own))]
        return {**raw, self.group: self.outputs(steps).unsqueeze(1)}, self.penalties(steps, rows)

    def picked(
        self,
        features: Mapping[str, Features],
        wanted: Mapping[str, Records],
        asked: Mapping[str, Records],
    ) -> dict[str, Features]:
        """Of the features of the wanted records those of the records asked for."""
        places = self._places(wanted, asked)
        if places is None:
            return dict(features)
        own, place = features[self.group], places[:, 0]
        rows = place if own.rows is None else own.rows.index_select(0, place)
        return {**features, self.group: replace(own, rows=rows)}

    def outputs(self, steps: Tensor) -> Tensor:
        """Log-odds [N, 1 + depth] of a task's head and of those before, the nearest first → [N]."""
        return steps[:, 0]

    def penalties(self, steps: Tensor, rows: int) -> dict[str, Tensor]:  # noqa: ARG002
        """What training adds to the loss, by name."""
        return {}

    def priors(self, priors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tasks' base rates → those that their heads start at."""
        return priors

    def _places(self, wanted: Mapping[str, Records], asked: Mapping[str, Records]) -> Tensor | None:
        """Where [N, 1 + depth] of the wanted records those of each step stand, −1 for none."""
        if self.group not in asked or not len(asked[self.group]):
            return None
        keys, width = self._keys(asked[self.group])
        there = wanted[self.group].task * width + wanted[self.group].rows
        return torch.searchsorted(there, keys).where(keys >= 0, -1)

    def _keys(self, records: Records) -> tuple[Tensor, int]:
        """Numbers [N, 1 + depth] for (task, row), −1 for none, and the rows they count with."""
        table = [[*row, *[-1] * (1 + self.depth - len(row))] for row in self._table]
        task = torch.tensor(table, device=records.task.device)[records.task]
        width = int(records.rows.max()) + 1
        return (task * width + records.rows.unsqueeze(1)).where(task >= 0, -1), width
