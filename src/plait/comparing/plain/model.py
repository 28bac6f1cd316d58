"""A model of plain estimators: one for each task, or one for each pool of alike tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from plait.batch import Input, Parts, Records
from plait.comparing.model import Asked, Model
from plait.comparing.plain.estimators import KINDS, Estimators
from plait.comparing.plain.view import Array, Table, View
from plait.comparing.results import Cost
from plait.kinds import Place
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Tasks served by one estimator, told apart by columns added to the table.

    ``units`` holds center and scale of each task's real targets as the estimator saw them.
    """

    name: str
    tasks: tuple[str, ...]
    units: tuple[tuple[float, float], ...]

    def widened(self, table: Table, task: Array, *, codes: bool) -> Table:
        """The table [B, F] with the task's number [B]: one column, or one for each task."""
        if len(self.tasks) == 1:
            return table
        if codes:
            extra: Table = task[:, None].astype(np.float32)
        else:
            extra = np.eye(len(self.tasks), dtype=np.float32)[task]
        if scipy.sparse.issparse(table):
            return scipy.sparse.hstack([table, extra], format="csr", dtype=np.float32)
        return np.concatenate([table, extra], axis=1)


class EstimatorModel(Model):
    """Estimators by pool, over one view of the inputs."""

    sort: ClassVar[str] = "estimators"

    def __init__(
        self,
        tasks: TaskSet,
        pools: Sequence[Pool],
        view: View,
        fitted: Estimators,
        evidence: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(tasks, evidence)
        self.pools = tuple(pools)
        self.view = view
        self.fitted = fitted
        self._of = {name: (pool, i) for pool in pools for i, name in enumerate(pool.tasks)}

    def predict(self, parts: Parts, asked: Asked) -> dict[str, Tensor]:
        """As every model; a task's positions are all predicted alike."""
        table = self.view.table(parts)
        found = {}
        for key, records in asked.items():
            names = self.tasks.groups[key].tasks
            numbers, rows = records.task.numpy(), records.rows.numpy()
            pieces = [
                (where, self._one(name, table[rows[where]]))
                for position, name in enumerate(names)
                if len(where := np.flatnonzero(numbers == position))
            ]
            if not pieces:
                continue
            filled = np.empty((len(numbers), *pieces[0][1].shape[1:]))
            for where, values in pieces:
                filled[where] = values
            found[key] = torch.from_numpy(filled)
            if (place := self.tasks.groups[key].place) != "row":
                there = _positions(parts, place)[records.rows]
                wide = (*there.shape, *found[key].shape[1:])
                shaped = found[key].view(len(there), *[1] * (there.ndim - 1), *wide[there.ndim :])
                found[key] = shaped.expand(wide).clone()
                found[key][~there] = torch.nan
        return found

    def _one(self, name: str, table: Table) -> Array:
        pool, number = self._of[name]
        task = np.full(table.shape[0], number)
        wide = pool.widened(table, task, codes=self.view.codes)
        values = self.fitted.predict(pool.name, self.tasks[name], wide)
        if self.tasks[name].kind == "real":
            center, scale = pool.units[number]
            values = values * scale + center
        return values

    def inputs(self) -> Mapping[str, Input]:
        return {each.key: each for each in self.view.inputs}

    def try_blank(self) -> None:
        """Estimators whose files do not fit one another fail on any row: here, not later."""
        part = {each.key: _blank(each) for each in self.view.inputs} or {"row": torch.zeros(1, 1)}
        for key, group in self.tasks.groups.items():
            every = torch.arange(len(group.tasks))
            found = self.predict({"rows": part}, {key: Records(every, torch.zeros_like(every))})
            if group.place != "row":
                continue
            classes = self.tasks[group.tasks[0]].classes
            wide = (len(classes),) if self.tasks[group.tasks[0]].named else ()
            if tuple(found[key].shape) != (len(every), *wide):
                raise ValueError(f"the estimators of {group.tasks[0]!r} do not fit its classes")

    def cost(self) -> Cost:
        count = self.fitted.parameters()
        return Cost(parameters=count, active=count)

    def _write(self, folder: Path, frozen: Path | None) -> dict[str, Any]:  # noqa: ARG002
        self.fitted.save(folder)
        pools = [
            {"name": p.name, "tasks": list(p.tasks), "units": [list(u) for u in p.units]}
            for p in self.pools
        ]
        return {"pools": pools, "view": self.view.to_json(), "estimators": self.fitted.kind}

    @classmethod
    def _read(cls, folder: Path, tasks: TaskSet, about: Mapping[str, Any]) -> Self:
        pools = [
            Pool(
                name=row["name"],
                tasks=tuple(row["tasks"]),
                units=tuple((center, scale) for center, scale in row["units"]),
            )
            for row in about["pools"]
        ]
        fitted = KINDS[about["estimators"]].load(folder)
        return cls(tasks, pools, View.from_json(about["view"]), fitted)


def _blank(each: Input) -> Tensor:
    shape = [1 if side < 0 else side for side in each.shape]
    whole = each.whole
    return torch.zeros(1, *shape, dtype=torch.long if whole else torch.float32)


def _positions(parts: Parts, place: Place) -> torch.Tensor:
    """Which positions each row has: bool [B, longest] for tokens."""
    kind = {"token": "sequence.", "pixel": "image."}[place]
    found = []
    for part in parts.values():
        rows = len(next(iter(part.values())))
        some = next((value for key, value in part.items() if key.startswith(kind)), None)
        if some is None:
            found.append(torch.zeros(rows, *[1] * (1 if place == "token" else 2)).bool())
        else:
            found.append(some != 0 if place == "token" else torch.ones_like(some[:, 0]).bool())
    most = [max(sizes) for sizes in zip(*(each.shape[1:] for each in found), strict=True)]
    whole = torch.zeros(sum(map(len, found)), *most).bool()
    start = 0
    for each in found:
        rows_ = slice(start, start + len(each))
        whole[(rows_, *(slice(size) for size in each.shape[1:]))] = each
        start += len(each)
    return whole
