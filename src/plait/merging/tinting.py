"""Model tinting: coefficients of task vectors and heads, learned from what the experts predict.

    θ^l = θ₀^l + Σ_m λ_m^l δ_m^l,   min over λ ∈ [0, 1], W_t of mean_rows CE(W_t z(x; θ), ŷ_t(x))

with z the features, W_t task t's linear head, which starts as its own model's, and ŷ_t(x) the class
that this model finds most likely for an unlabelled row. With ``confident`` a row counts only where
both agree, or where the task's model is at least as sure of its class as the merged one of its own.
The heads on the bench are written over. Where validation is no better for it, the start is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from plait.merging.base import Have, Merged, Merger
from plait.merging.bench import Bench, array, keyed, put
from plait.merging.pool import Pool
from plait.merging.tune import Mix, verdict
from plait.method import Card, Law, Need, Paper
from plait.weights.sinks import Sink

SIZE = 256  # rows that are run together


@dataclass(frozen=True, kw_only=True)
class Tinting(Merger):
    """Coefficients and linear heads, trained for ``rounds`` of a step for each task."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="tinting",
        summary="Coefficients and heads are learned from the classes that the experts predict.",
        paper=Paper(
            title="Tint Your Models Task-wise for Improved Multi-task Model Merging",
            authors="Aecheon Jung and Seunghwan Lee and Dongyoon Han and Sungeun Hong",
            year=2024,
            url="https://arxiv.org/abs/2412.19098",
        ),
        needs=frozenset({Need.BASE, Need.UNLABELLED, Need.HEADS, Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "a batch of which no row counts takes no step; the authors' code makes its mean NaN",
            "heads of other tasks rest in a step; in the authors' code their momentum moves them",
            "the rows are training rows without their labels; the authors tune on the test images",
            "the start is kept where training does not lower the validation loss",
        ),
    )
    losses: ClassVar[frozenset[str] | None] = frozenset({"cross_entropy", "bce"})
    confident: bool = True
    start: float = 0.3
    rounds: int = 500
    rate: float = 1e-2
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.start <= 1:
            raise ValueError(f"start must lie in [0, 1], got {self.start:g}")
        if self.rounds < 0 or self.batch < 1:
            raise ValueError("rounds must be 0 or more, batch at least 1")

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """No round, nothing scaled."""
        return {"start": 1.0, "rounds": 0}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """With the filter, and without."""
        return ({"rounds": 2, "batch": 4}, {"rounds": 1, "batch": 4, "confident": False})

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Ask the experts, train, check, and merge."""
        bench = have.live
        heads = {task: bench.head(task) for task in pool.names}
        experts = {}
        for task in pool.names:
            bench.load(pool, task)
            experts[task] = _shares(bench, task)
        mix = Mix(pool, bench, workers=workers)
        first = np.full((len(mix.names), len(pool)), self.start)
        judged = None
        if have.validation is not None and self.rounds:
            mix.place(first)
            judged = [float(have.validation(bench.state))]
        before = {task: [part.detach().clone() for part in head] for task, head in heads.items()}
        tuned, made, losses = self._train(mix, before, experts)
        _write(heads, made)
        if judged is not None and have.validation is not None:
            mix.place(tuned)
            judged.append(float(have.validation(bench.state)))
        better, told = verdict(losses, judged)
        if not better:
            _write(heads, before)
        return mix.merged(tuned if better else first, have, sink, workers, told)

    def _train(
        self, mix: Mix, start: Mapping[str, list[Tensor]], experts: Mapping[str, Tensor]
    ) -> tuple[np.ndarray[Any, Any], Mapping[str, list[Tensor]], list[float]]:
        """The coefficients, the heads, and the mean loss of every round."""
        bench = mix.bench
        free = torch.full((len(mix.names), len(mix.pool)), self.start, dtype=torch.float64)
        free.requires_grad_()
        heads = {t: [part.clone().requires_grad_() for part in head] for t, head in start.items()}
        everything = [free, *(part for head in heads.values() for part in head)]
        adam = torch.optim.Adam(everything, lr=self.rate)
        body = [tensor for tensor in bench.module.parameters() if tensor.requires_grad]
        losses = []
        for number in range(self.rounds):
            each = []
            for task in self._order(sorted(heads), number):
                mix.place(array(free))
                bench.forget()
                adam.zero_grad()
                rows = bench.drawn(task, self.batch, number, self.seed)
                raw = F.linear(bench.run(task, rows).features, *heads[task])
                loss = self._loss(raw, experts[task][torch.from_numpy(rows)])
                if loss is None:
                    continue
                each.append(float(loss.detach()))
                bench.backward(loss, [*body, *heads[task]])
                free.grad = torch.from_numpy(mix.pull())
                adam.step()
                with torch.no_grad():
                    free.clamp_(0, 1)
            losses.append(float(np.mean(each)) if each else 0.0)
            if not np.isfinite(losses[-1]):
                break
        bench.forget()
        return array(free), heads, losses

    def _order(self, tasks: list[str], number: int) -> list[str]:
        """The tasks in the shuffled order of a round."""
        return [tasks[place] for place in keyed(self.seed, "round", number).permutation(len(tasks))]

    def _loss(self, raw: Tensor, expert: Tensor) -> Tensor | None:
        """The mean cross-entropy to the expert's classes over the rows that count; None of none."""
        logs = _logs(raw)
        sure, classes = expert.max(1)
        if self.confident:
            own, mine = logs.detach().exp().max(1)
            counts = (classes == mine) | (sure >= own)
            if not counts.any():
                return None
            logs, classes = logs[counts], classes[counts]
        return F.nll_loss(logs, classes)


def _logs(raw: Tensor) -> Tensor:
    """The logarithms of the classes' shares [N, C]; one number is that of the second of two."""
    both = torch.cat([torch.zeros_like(raw), raw], 1) if raw.shape[1] == 1 else raw
    return both.log_softmax(1)


@torch.no_grad()
def _shares(bench: Bench, task: str) -> Tensor:
    """What the network on the bench thinks of all rows of a task. [N, C]"""
    rows = np.arange(bench.count(task))
    pieces = [rows[at : at + SIZE] for at in range(0, len(rows), SIZE)]
    return torch.cat([_logs(bench.run(task, piece).raw).exp() for piece in pieces])


def _write(heads: Mapping[str, tuple[Tensor, Tensor]], values: Mapping[str, list[Tensor]]) -> None:
    for task, head in heads.items():
        for part, value in zip(head, values[task], strict=True):
            put(part, 0, array(value).reshape(-1))
