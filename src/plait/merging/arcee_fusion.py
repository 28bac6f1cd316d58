"""Arcee Fusion: take over from another model only the weights that matter most.

    I = |θ₁ − θ₀| ⊙ KL(softmax(θ₁) ‖ softmax(θ₀)),   θ = θ₀ + 1[I ≥ τ] ⊙ (θ₁ − θ₀)
    τ = median(I) + 1.5 (Q₃(I) − Q₁(I))

tensor by tensor on the base θ₀ and the one model θ₁ [*s], softmax and divergence row by row (a
vector is one row, 1e-8 is added to the shares), and the quartiles those of the tensor's entries,
the one at ⌊q (n − 1)⌋ of n in rising order.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([0.1, 0.1, 0.1, 0.2, 3.0])}}, base={"w": np.zeros(5)})
>>> ArceeFusion().merge(pool).tensors["w"]
array([0., 0., 0., 0., 3.])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stage import Context, Grain
from plait.merging.stages.cuts import Cut
from plait.merging.stages.sums import Sum
from plait.method import Card, Need


@dataclass(frozen=True, kw_only=True)
class Important(Cut):
    """Keep the deltas whose importance is far above the tensor's median."""

    grain: ClassVar[Grain] = Grain.ROW

    def rank(self, count: int) -> int:
        """The median's place."""
        return max(count - 1, 0) // 2

    def ranks(self, counts: Array) -> Array:
        """The places of the quartiles."""
        last = max(int(counts[0]) - 1, 0)
        return np.array([last // 4, self.rank(last + 1), 3 * last // 4])

    def scan(self, values: Array, ctx: Context) -> Array:
        """Counts of digits of the importance, once for each quartile."""
        importance = _importance(values, ctx)
        return super().scan(np.stack([importance] * 3), ctx)

    def __call__(self, deltas: Array, ctx: Context) -> Array:
        """Zero what is not important."""
        importance = _importance(deltas, ctx)
        first, median, third = self.thresholds(ctx, deltas)
        deltas *= importance >= median + 1.5 * (third - first)
        return deltas


def _importance(deltas: Array, ctx: Context) -> Array:
    """|δ| times the divergence of its row: [rows, d] of deltas [1, rows, d]."""
    assert ctx.base is not None
    base = ctx.base.astype(np.float64)
    p, q = _softmax(base + deltas[0]), _softmax(base)
    divergence = np.maximum((p * np.log(p / q)).sum(-1, keepdims=True), 0)
    return np.asarray(np.abs(deltas[0]) * divergence, deltas.dtype)


def _softmax(rows: Array) -> Array:
    """Softmax along rows, and 1e-8."""
    powers = np.exp(rows - rows.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True) + 1e-8)


@dataclass(frozen=True, kw_only=True)
class ArceeFusion(Merger):
    """One model's most important changes on its base."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="arcee_fusion",
        summary="A base that takes over one model's most important weights.",
        needs=frozenset({Need.BASE}),
        deviations=(
            "quartiles are exact; mergekit draws a million entries at random from larger tensors",
            "divergences are computed in float64",
        ),
        exceptions={
            "one_expert_is_returned": "only the most important weights are taken over",
            "equal_experts_keep_their_direction": "only the most important weights are taken over",
            "stretching": "softmax is of the weights as they are",
            "any_size_is_finite": "softmax is of the weights as they are",
        },
    )
    count: ClassVar[int | None] = 1

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """The important part of the delta."""
        return Pipeline(edits=(Important(per="tensor"),), combine=Sum())
