"""MetaGPT: task arithmetic with a coefficient for each model that needs no data.

    θ = θ₀ + Σ_m λ_m δ_m,   λ_m = ‖δ_m‖² / Σ_k ‖δ_k‖²

with δ_m = θ_m − θ₀ [*s] and norms over the whole model. For task vectors that are orthogonal and
losses that are linear between base and models these λ have the least mean rise of the losses. They
add up to 1: the model that moved farthest counts most.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([2.0, 0.0])}, "b": {"w": np.array([0.0, 1.0])}},
...             base={"w": np.zeros(2)})
>>> Metagpt().merge(pool).tensors["w"]
array([1.6, 0.2])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stage import Coefficients, Context
from plait.merging.stages.sums import Sum
from plait.method import Card, Law, Need, Paper


@dataclass(frozen=True, kw_only=True)
class SquaredNorms(Coefficients):
    """Each model's share of all squares."""

    @property
    def whole(self) -> bool:
        """Norms are those of the whole model."""
        return True

    def passes(self, working: np.dtype[Any]) -> int:  # noqa: ARG002
        """One."""
        return 1

    def scan(self, values: Array, ctx: Context) -> Array:  # noqa: ARG002
        """Sums of squares [M]."""
        return np.asarray(np.square(values, dtype=np.float64).sum(1))

    def settle(self, total: Array, found: tuple[Any, ...]) -> Array:  # noqa: ARG002
        """Shares [M], equal where no model has moved."""
        return total / total.sum() if total.any() else np.full(len(total), 1 / len(total))

    def __call__(self, deltas: Array, ctx: Context) -> Array:  # noqa: ARG002
        """The shares."""
        return np.asarray(ctx.found[0])


@dataclass(frozen=True, kw_only=True)
class Metagpt(Merger):
    """The mean of the task vectors, weighed by their squared norms."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="metagpt",
        summary="Task arithmetic with coefficients from the norms of the task vectors.",
        paper=Paper(
            title="MetaGPT: Merging Large Language Models Using Model Exclusive Task Arithmetic",
            authors="Yuyan Zhou and Liang Song and Bingning Wang and Weipeng Chen",
            year=2024,
            venue="Conference on Empirical Methods in Natural Language Processing",
            url="https://arxiv.org/abs/2406.11385",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "the formula is as another group's code has it; the authors' code is not public",
        ),
    )

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """Norms, then the sum."""
        return Pipeline(coefficients=(SquaredNorms(),), combine=Sum())
