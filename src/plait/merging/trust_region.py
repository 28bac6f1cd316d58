"""Task arithmetic in the trust region: leave out the entries where task vectors hurt other tasks.

    θ = θ₀ + λ Σ_m m ⊙ δ_m,   m = 1[Ω < Q_q(Ω)],   Ω = Σ_{i≠j} a_i ⊙ |δ_j|

with δ_m = θ_m − θ₀ and a_i [*s] the mean over rows of task i of |∂ loss/∂θ| at the base; Q_q is the
quantile ``keep`` of Ω over the whole model. Tensors on which no loss depends are not masked, and
count for nothing in the quantile. With ``zero_shot`` a_i = |δ_i| stands in for the gradients, and
no data are needed. λ is ``scale``, searched on validation among ``grid`` unless it is given.

>>> import numpy as np, torch
>>> from plait.merging.base import Have
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([3.0, 1.0, 0.0])}, "b": {"w": np.array([-3.0, 0.0, 1.0])}},
...             base={"w": np.zeros(3)})
>>> TrustRegion(zero_shot=True, keep=0.9, scale=1.0).merge(pool).tensors["w"]
array([0., 1., 1.])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.base import Have, Merged, Merger, Pipeline
from plait.merging.pipeline import Free
from plait.merging.pool import Array, Pool
from plait.merging.stage import Context
from plait.merging.stages.cuts import Cut
from plait.merging.stages.sums import Sum
from plait.merging.statistics.base import gather, stacked
from plait.merging.statistics.slopes import Slopes
from plait.method import Card, Law, Need, Paper
from plait.weights.sinks import Sink
from plait.weights.sources import Source


@dataclass(frozen=True, kw_only=True)
class TrustRegion(Merger):
    """Task vectors without the entries that move other tasks' losses most."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="trust_region",
        summary="Task vectors without the entries to which other tasks' losses are sensitive.",
        paper=Paper(
            title=(
                "Task Arithmetic in Trust Region: A Training-Free Model Merging Approach to "
                "Navigate Knowledge Conflicts"
            ),
            authors="Wenju Sun and Qingyong Li and Wen Wang and Yangli-ao Geng and Boyang Li",
            year=2025,
            venue="International Conference on Learning Representations",
            url="https://arxiv.org/abs/2501.15065",
        ),
        needs=frozenset({Need.BASE, Need.LABELLED, Need.HEADS, Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "entries without any conflict stay, also where the quantile is 0",
            "keep = 1 keeps all entries; the largest conflict is not below that quantile",
            "read in two public ports of the authors' code, not in the code itself",
        ),
    )
    keep: float = 0.99
    zero_shot: bool = False
    scale: float | None = None
    grid: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    rows: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is a share above 0 and at most 1, not {self.keep:g}")
        self._slopes()

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """With gradients and without."""
        return ({"rows": 2, "keep": 0.8}, {"zero_shot": True, "keep": 0.8})

    def needs(self) -> frozenset[Need]:
        """A base alone where no gradients are taken."""
        return frozenset({Need.BASE}) if self.zero_shot else self.card.needs

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Gradients of the base on every task's rows, then a masked sum."""
        nobody: list[str | None] = [None] * len(pool)
        slopes = None if self.zero_shot else gather(self._slopes(), have.live, pool, nobody)
        trusted = (Trusted(keep=self.keep, slopes=slopes),) if self.keep < 1 else ()
        free = Free(grid=tuple(self.grid), fallback=0.3)
        scale = free if self.scale is None else self.scale
        return Pipeline(edits=trusted, combine=Sum(), scale=scale).run(pool, have, sink, workers)

    def _slopes(self) -> Slopes:
        return Slopes(rows=self.rows, seed=self.seed)


@dataclass(frozen=True, eq=False, kw_only=True)
class Trusted(Cut):
    """Zero the entries of all models whose conflict Ω, above 0, is not below a quantile.

    ``keep`` is the quantile's share; ``slopes`` are the tasks' a [*s] by name, None where the
    task vectors' magnitudes stand in for them.
    """

    per: Literal["model", "tensor"] = "model"
    keep: float
    slopes: Mapping[str, Source] | None

    def rank(self, count: int) -> int:
        """Between two entries the quantile separates as the upper one does."""
        return ceil(self.keep * (count - 1))

    def scan(self, values: Array, ctx: Context) -> Array:
        """Counts [1, 65536] of the next digit of Ω."""
        found = self._conflicts(values, ctx)
        one = np.empty((1, 0), values.dtype) if found is None else found[None]
        return super().scan(one, ctx)

    def __call__(self, deltas: Array, ctx: Context) -> Array:
        """Mask."""
        found = self._conflicts(deltas, ctx)
        if found is not None:
            deltas *= (found < self.thresholds(ctx, deltas)[0]) | (found == 0)
        return deltas

    def _conflicts(self, deltas: Array, ctx: Context) -> Array | None:
        """Ω [n] of a block of deltas [M, n]; None for a tensor without gradients."""
        sizes = np.abs(deltas)
        slopes = sizes
        if self.slopes is not None:
            if any(ctx.site.name not in one.names for one in self.slopes.values()):
                return None
            slopes = stacked(self.slopes, ctx.site, ctx.start, ctx.start + sizes.shape[1])
        others = sizes.sum(0) - sizes
        return np.asarray((slopes * np.maximum(others, 0)).sum(0))
