"""SUPERMERGE: learn how much of each task vector to add, by the tasks' losses on a few labels.

    θ^l = θ₀^l + Σ_m tanh(w_m^l) δ_m^l,   w = argmin Σ_t mean_rows loss_t(x, y; θ)

with δ_m^l = θ_m^l − θ₀^l at tensor l: a coefficient in (−1, 1) for each tensor and model, started
at ``start``. Negative ones are meant. Where the validation loss is no better for it, the start is
kept.

>>> import numpy as np, torch
>>> from plait.merging.base import Have
>>> from plait.merging.modules import ModuleBench
>>> from plait.merging.pool import Pool
>>> body, head = torch.nn.Linear(1, 1, bias=False), torch.nn.Identity()
>>> rows, targets = {"a": torch.ones(8, 1)}, {"a": torch.full((8,), -2.0)}
>>> bench = ModuleBench(body, {"a": head}, rows, targets, losses="squared")
>>> pool = Pool({"a": {"weight": np.float32([[4]])}}, base={"weight": np.float32([[0]])})
>>> merged = SuperMerge(steps=150, rate=0.1).merge(pool, Have(bench=bench))
>>> [round(c, 2) for c in merged.evidence["coefficients"]["weight"]]
[-0.5]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from plait.merging.base import Have, Merged, Merger
from plait.merging.bench import array
from plait.merging.objectives import supervised
from plait.merging.pool import Pool
from plait.merging.tune import Learn, Mix, guarded
from plait.method import Card, Law, Need, Paper
from plait.weights.sinks import Sink


@dataclass(frozen=True, kw_only=True)
class SuperMerge(Merger):
    """Coefficients of task vectors in (−1, 1), learned from labelled rows."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="supermerge",
        summary="Task vectors whose coefficients in (−1, 1) are learned from a few labels.",
        paper=Paper(
            title="SUPERMERGE: An Approach For Gradient-Based Model Merging",
            authors="Haoyu Yang and Zheng Zhang and Saket Sathe",
            year=2024,
            url="https://arxiv.org/abs/2412.10416",
        ),
        needs=frozenset({Need.BASE, Need.LABELLED, Need.HEADS, Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "start, rate and number of steps are ours; the authors' were not found",
            "a layer is a tensor",
            "no hierarchy of merges: memory does not grow with the models here",
            "the start is kept where tuning does not lower the validation loss",
        ),
    )
    start: float = 0.3
    steps: int = 500
    rate: float = 1e-2
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not -1 <= self.start <= 1:
            raise ValueError(f"start must lie in [-1, 1], got {self.start:g}")
        self._learn()

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """A few steps."""
        return ({"steps": 2, "batch": 4},)

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Learn the coefficients, check them, and merge."""
        bench = have.live
        mix = Mix(pool, bench, workers=workers)
        start = torch.full((len(mix.names), len(pool)), self.start, dtype=torch.float64).atanh()
        tuned, losses = self._learn().run(mix, start, torch.tanh, supervised(bench))
        first, last = array(start.tanh()), array(tuned.tanh())
        found, told = guarded(mix, have, first, last, losses)
        return mix.merged(found, have, sink, workers, told)

    def _learn(self) -> Learn:
        return Learn(steps=self.steps, rate=self.rate, batch=self.batch, seed=self.seed)
