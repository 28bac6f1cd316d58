"""Representation surgery: after any merge, bring each task's features back to its own expert's.

    z' = z − U_t ReLU(D_t z),   min over U_t [d, r], D_t [r, d] of mean|z'(x) − z_t(x)|

for features z [d] of the merged network on unlabelled rows x of task t and z_t those of the task's
own model; the merge stays as it is. U starts at zero, so that nothing changes at first. The module
is served by the row's task. What the tasks' distances were before and after is in the evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plait.merging.base import Have, Merged, Merger
from plait.merging.bench import Bench, array, dealt, keyed, put
from plait.merging.pool import Pool
from plait.merging.results import Change
from plait.merging.route import Route
from plait.method import Card, Law, Method, MethodError, Need, Paper, resolve
from plait.weights.sinks import Sink

SIZE = 256  # rows that are run together


@dataclass(frozen=True, kw_only=True)
class Surgery(Route):
    """Merge by ``method``, then repair the features of every task by a module of rank ``rank``."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="surgery",
        summary="After any merge, a small module for each task repairs its features.",
        paper=Paper(
            title="Representation Surgery for Multi-Task Model Merging",
            authors=(
                "Enneng Yang and Li Shen and Zhenyi Wang and Guibing Guo and Xiaojun Chen and "
                "Xingwei Wang and Dacheng Tao"
            ),
            year=2024,
            venue="International Conference on Machine Learning",
            url="https://arxiv.org/abs/2402.02705",
        ),
        needs=frozenset({Need.BASE, Need.UNLABELLED, Need.TASK_ID}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "each task's module has moments of its own; in the authors' code idle modules drift",
            "a task whose distance does not fall keeps its features as they are",
            "the rows are training rows without their labels; the authors tune on the test images",
        ),
    )
    parts: ClassVar[Mapping[str, str]] = {"method": "merging"}
    method: Method | str | Mapping[str, Any] = "task_arithmetic"
    rank: int = 16
    steps: int = 1000
    rate: float = 1e-3
    batch: int = 16
    rows: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "batch", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.steps < 0:
            raise ValueError(f"steps must be 0 or more, got {self.steps}")

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """No step, and nothing scaled by the method."""
        return {"steps": 0, "method": {"task_arithmetic": {"scale": 1.0}}}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """After task arithmetic and after TIES."""
        few = {"steps": 2, "rank": 2, "batch": 4}
        return (few, {**few, "method": {"ties": {"scale": 1.0}}})

    def needs(self) -> frozenset[Need]:
        """Those of the method too; the base only where that needs it."""
        return frozenset({Need.UNLABELLED, Need.TASK_ID}) | self._inner().needs()

    def admit(self, losses: Mapping[str, str]) -> None:
        """The method may not be able to look at some tasks."""
        self._inner().admit(losses)

    def lay(self, module: nn.Module, width: int, models: Sequence[str]) -> Change:  # noqa: ARG002
        """The modules that stand after the network."""
        return Change(after=Repairs(width, len(models), self.rank))

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Merge, and learn what to take away from the features."""
        merged = self._inner().run(pool, have, sink, workers)
        bench = have.live
        rows = {task: bench.chosen(task, self.rows, self.seed) for task in bench.tasks}
        wanted = {}
        for task in pool.names:
            bench.load(pool, task)
            wanted[task] = features(bench, task, rows[task])
        bench.fill({site.name: merged.tensors[site.name] for site in pool.sites if site.floating})
        seen = {task: features(bench, task, rows[task]) for task in pool.names}
        change = self.lay(bench.module, seen[pool.names[0]].shape[-1], pool.names)
        repairs: Repairs = change.after
        repairs.to(seen[pool.names[0]])
        distances = {}
        for place, task in enumerate(pool.names):
            down, up, distances[task] = self._fitted(task, seen[task], wanted[task])
            put(repairs.down[place], 0, array(down).reshape(-1))
            put(repairs.up[place], 0, array(up).reshape(-1))
        told = {**merged.evidence, "distance": distances}
        return replace(merged, evidence=told, change=change)

    def _fitted(
        self, task: str, seen: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor, list[float]]:
        """A task's D and U, and its distance before and after."""
        width = seen.shape[1]
        bound = width**-0.5  # Kaiming's uniform start with a = √5
        start = keyed(self.seed, "surgery", task).uniform(-bound, bound, (self.rank, width))
        down = torch.from_numpy(start).to(seen).requires_grad_()
        up = seen.new_zeros(width, self.rank).requires_grad_()
        adam = torch.optim.Adam([down, up], lr=self.rate)

        def distance(rows: Tensor) -> Tensor:
            z = seen[rows]
            return (z - torch.relu(z @ down.T) @ up.T - wanted[rows]).abs().mean()

        everything = torch.arange(len(seen))
        before = float(distance(everything).detach())
        for step in range(self.steps):
            adam.zero_grad()
            rows = dealt(self.seed, task, len(seen), self.batch, step)
            torch.autograd.backward(distance(torch.from_numpy(rows)))
            adam.step()
        after = float(distance(everything).detach())
        if after < before:
            return down, up, [before, after]
        return down, torch.zeros_like(up), [before, before]

    def _inner(self) -> Merger:
        merger: Merger = resolve("merging", self.method)
        if isinstance(merger, Route):
            raise MethodError(f"surgery repairs what keeps its form; {merger.card.name} does not")
        return merger


class Repairs(nn.Module):
    """z − U_t ReLU(D_t z) for the task t of every row."""

    def __init__(self, width: int, tasks: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.zeros(tasks, rank, width))
        self.up = nn.Parameter(torch.zeros(tasks, width, rank))

    def forward(self, features: Tensor, task: Tensor) -> Tensor:
        """Features [N, ..., width] and the places of their tasks [N] → [N, ..., width]."""
        tasks, rank, width = self.down.shape
        own = nn.functional.one_hot(task, tasks).to(features)
        own = own.repeat_interleave(rank, 1).view(-1, *[1] * (features.ndim - 2), tasks * rank)
        hidden = torch.relu(nn.functional.linear(features, self.down.view(-1, width))) * own
        up = self.up.transpose(0, 1).reshape(width, -1)
        return features - nn.functional.linear(hidden, up)


@torch.no_grad()
def features(bench: Bench, task: str, rows: Any) -> Tensor:
    """The features of rows as the network on the bench makes them, one for each position. [N, d]"""
    pieces = [bench.run(task, rows[i : i + SIZE]).features for i in range(0, len(rows), SIZE)]
    width = pieces[0].shape[-1]
    return torch.cat([piece.reshape(-1, width) for piece in pieces])
