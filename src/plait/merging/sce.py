"""SCE: weigh models by how much they move where they differ, then average those that agree in sign.

    mask = 1[var_m(δ_m) among the share ``keep`` of the largest],   η_m ∝ Σ (mask ⊙ δ_m)²
    s = sgn(Σ_m δ_m),   e_m = 1[sgn δ_m = s],   θ = θ₀ + Σ_m η_m e_m δ_m / Σ_m η_m e_m

tensor by tensor, with δ_m = θ_m − θ₀ [*s], variances over the models, entries that are equal in all
models not counted in the share, + where models cancel, and zero where no model agrees.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([3.0, 1.0])}, "b": {"w": np.array([1.0, 2.0])}},
...             base={"w": np.zeros(2)})
>>> Sce(keep=0.5).merge(pool).tensors["w"]
array([2.8, 1.1])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stage import Coefficients, Context
from plait.merging.stages.cuts import Cut
from plait.merging.stages.signs import Agreeing
from plait.method import Card, Law, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Varying(Cut):
    """Where the models differ most: the share ``keep`` of a tensor's entries that differ at all.

    With ``hide`` the deltas are zeroed elsewhere.
    """

    keep: float
    hide: bool = False

    def rank(self, count: int) -> int:
        """The first place that is kept, one at least."""
        return max(count - max(int(count * self.keep), 1), 0)

    def scan(self, values: Array, ctx: Context) -> Array:
        """Counts of digits of the variances that are not zero."""
        variance = values.var(0)
        return super().scan(variance[variance > 0][None], ctx)

    def mask(self, deltas: Array, ctx: Context) -> Array:
        """Where the models differ most: a mask [n] of deltas [M, n]."""
        variance = deltas.var(0)
        return np.asarray((variance > 0) & (variance >= self.thresholds(ctx, deltas)))

    def __call__(self, deltas: Array, ctx: Context) -> Array:
        """Leave them, or hide the others."""
        if self.hide:
            deltas *= self.mask(deltas, ctx)
        return deltas


@dataclass(frozen=True, kw_only=True)
class Energy(Coefficients):
    """Each model's share of the squares at a tensor's varying entries, or at all of them."""

    varying: Varying | None = None

    def passes(self, working: np.dtype[Any]) -> int:  # noqa: ARG002
        """One."""
        return 1

    def scan(self, values: Array, ctx: Context) -> Array:
        """Sums of squares [M]."""
        if self.varying is not None:
            values = values[:, self.varying.mask(values, ctx)]
        return np.asarray(np.square(values, dtype=np.float64).sum(1))

    def settle(self, total: Array, found: tuple[Any, ...]) -> Array:  # noqa: ARG002
        """Shares [M], equal where nothing varies."""
        return total / total.sum() if total.any() else np.full(len(total), 1 / len(total))

    def __call__(self, deltas: Array, ctx: Context) -> Array:  # noqa: ARG002
        """The shares."""
        return np.asarray(ctx.found[0])


@dataclass(frozen=True, kw_only=True)
class Sce(Merger):
    """Select, calculate, erase; ``keep`` is the share of entries that the weights come from.

    With ``select="deltas"`` the entries not selected stay at the base, as in mergekit.
    """

    card: ClassVar[Card] = Card(
        family="merging",
        name="sce",
        summary="The mean of what agrees in sign, models weighed by their energy where they vary.",
        paper=Paper(
            title="FuseChat: Knowledge Fusion of Chat Models",
            authors="Fanqi Wan and Longguang Zhong and Ziyi Yang and Ruijun Chen and Xiaojun Quan",
            year=2024,
            venue="arXiv",
            url="https://arxiv.org/abs/2408.07990",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "only weights come from the selection, as in the authors' code, not what is merged",
            "one entry of a tensor at least is selected, and what varies as much as the last one",
        ),
    )
    keep: float = 0.1
    select: Literal["weights", "deltas"] = "weights"

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is a share above 0 and at most 1, not {self.keep:g}")

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Both readings of the selection."""
        return ({}, {"select": "deltas", "keep": 0.5})

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """Find where models vary, weigh by the squares there, and combine what agrees."""
        combine = Agreeing(over="weights", zero="plus", votes="equal")
        if self.keep == 1:
            return Pipeline(coefficients=(Energy(),), combine=combine)
        varying = Varying(keep=self.keep, per="tensor", hide=self.select == "deltas")
        return Pipeline(edits=(varying,), coefficients=(Energy(varying=varying),), combine=combine)
