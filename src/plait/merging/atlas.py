"""aTLAS: compose task vectors with a learned coefficient for every tensor, from a few labels.

    θ^l = θ₀^l + Σ_m λ_m^l δ_m^l,   λ = argmin Σ_t mean_rows loss_t(x, y; θ)

with δ_m^l = θ_m^l − θ₀^l at tensor l and λ [L, M] unbounded. It starts at the base, ``start`` = 0,
and λ is learned by AdamW, whose ``decay`` pulls it back there, with gradients of norm ``clip`` at
most and a rate that falls to 0 along a cosine. Where the validation loss is no better for it, the
start is kept. With ``forget`` that task's loss is taken with its sign turned, so that the task is
unlearned while the others hold; validation, which counts that task too, then has no say.

>>> import numpy as np, torch
>>> from plait.merging.base import Have
>>> from plait.merging.modules import ModuleBench
>>> from plait.merging.pool import Array, Pool
>>> body, head = torch.nn.Linear(1, 1, bias=False), torch.nn.Identity()
>>> rows, targets = {"a": torch.ones(8, 1)}, {"a": torch.full((8,), 6.0)}
>>> bench = ModuleBench(body, {"a": head}, rows, targets, losses="squared")
>>> pool = Pool({"a": {"weight": np.float32([[4]])}}, base={"weight": np.float32([[0]])})
>>> merged = Atlas(steps=100, decay=0.0).merge(pool, Have(bench=bench))
>>> [round(c, 2) for c in merged.evidence["coefficients"]["weight"]]
[1.5]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from plait.merging.base import Have, Merged, Merger
from plait.merging.bench import array
from plait.merging.objectives import supervised
from plait.merging.pool import Array, Pool
from plait.merging.tune import Learn, Mix, guarded
from plait.method import Card, Law, Need, Paper, did_you_mean
from plait.weights.sinks import Sink


@dataclass(frozen=True, kw_only=True)
class Atlas(Merger):
    """A coefficient for each tensor and task vector, learned from labelled rows."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="atlas",
        summary="Task vectors scaled tensor by tensor, the coefficients learned from few labels.",
        paper=Paper(
            title=("Knowledge Composition using Task Vectors with Learned Anisotropic Scaling"),
            authors=(
                "Frederic Z. Zhang and Paul Albert and Cristian Rodriguez-Opazo and "
                "Anton van den Hengel and Ehsan Abbasnejad"
            ),
            year=2024,
            venue="Advances in Neural Information Processing Systems",
            url="https://arxiv.org/abs/2407.02880",
        ),
        needs=frozenset({Need.BASE, Need.LABELLED, Need.HEADS, Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "addition and negation from labels, at the authors' few-shot settings for both",
            "no floor for the accuracy on other tasks while one is unlearned (the authors': 95 %)",
            "no test-time adaptation, which wants augmented views of the rows",
            "one coefficient for each tensor; tensors are not cut into random parts (aTLAS × K)",
            "the start is kept where tuning does not lower the validation loss",
        ),
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"forget": "values"}
    forget: str | None = None
    start: float = 0.0
    steps: int = 100
    rate: float = 0.1
    decay: float = 0.1
    clip: float = 1.0
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.clip > 0 or self.decay < 0:
            raise ValueError("clip must be above 0, and decay not below")
        self._learn()

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """A few steps."""
        return ({"steps": 2, "batch": 4},)

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Learn the coefficients, check them, and merge."""
        bench = have.live
        if self.forget is not None and self.forget not in bench.tasks:
            hint = did_you_mean(self.forget, bench.tasks)
            raise ValueError(f"atlas: there is no task {self.forget!r} to forget{hint}")
        mix = Mix(pool, bench, workers=workers)
        start = torch.full((len(mix.names), len(pool)), self.start, dtype=torch.float64)

        def same(free: Tensor) -> Tensor:
            return free * 1

        own = supervised(bench)

        def signed(task: str, rows: Array) -> Tensor:
            return -own(task, rows) if task == self.forget else own(task, rows)

        tuned, losses = self._learn().run(mix, start, same, signed)
        judge = have if self.forget is None else replace(have, validation=None)
        found, told = guarded(mix, judge, array(start), array(tuned), losses)
        return mix.merged(found, have, sink, workers, told)

    def _learn(self) -> Learn:
        return Learn(
            steps=self.steps,
            rate=self.rate,
            batch=self.batch,
            seed=self.seed,
            decay=self.decay,
            clip=self.clip,
            cosine=True,
        )
