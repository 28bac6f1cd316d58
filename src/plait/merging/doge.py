"""DOGE: one shared change to all task vectors of a layer, learned off the directions they share.

For every linear layer, with δ_m = θ_m − θ₀ [o, n], λ_m = ``scale``/‖δ_m‖ and r₀ = min(o, n), one Δ
[o, n] minimises by Adam from 0

    Σ_j Σ_row ⟨δ_j, δ_j − Σ_m λ_m (δ_m + Δ)⟩²_row

its gradient g replaced by (I − S Sᵀ) g, where S [o, ⌊r₀/``divisor``⌋] are the leading left singular
vectors of all models' top ⌊r₀/M⌋ left singular vectors side by side. Then

    θ = θ₀ + Σ_m λ_m 1[|δ_m| ≥ t_m] ⊙ (δ_m + Δ)

with t_m the magnitude above which the share ``keep`` of model m's linear layers lies. All other
tensors, and matrices whose names fit ``leave``, stay the base's.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([[3.0, 0.0], [4.0, 0.0]])}}, base={"w": np.zeros((2, 2))})
>>> Doge(scale=5.0, keep=1.0).merge(pool).tensors["w"]
array([[3., 0.],
       [4., 0.]])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stage import Context, Grain
from plait.merging.stages.cuts import COUNTS, Trim
from plait.merging.stages.descent import TABLES, adam, linear_layer
from plait.merging.stages.spectral import each, svd
from plait.merging.stages.sums import Sum, added
from plait.method import Card, Law, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Adjusted(Trim):
    """λ_m 1[|δ_m| ≥ t_m] ⊙ (δ_m + Δ) of linear layers, zeros elsewhere."""

    grain: ClassVar[Grain] = Grain.TENSOR
    scale: float
    divisor: int
    steps: int
    rate: float
    leave: tuple[str, ...]

    def scan(self, values: Array, ctx: Context) -> Array:
        """The counts of linear layers; others have no part in the thresholds."""
        if linear_layer(values, ctx, self.leave):
            return super().scan(values, ctx)
        return np.zeros((len(values), COUNTS), np.int64)

    def __call__(self, deltas: Array, ctx: Context) -> Array:
        """Learn the change of a layer, and mask what it is added to."""
        if not linear_layer(deltas, ctx, self.leave):
            deltas[...] = 0
            return deltas
        norms = np.sqrt(np.sum(np.square(deltas), axis=(1, 2)))
        factors = np.divide(self.scale, norms, out=np.zeros_like(norms), where=norms > 0)
        change = self._change(deltas, factors)
        least = self.thresholds(ctx, deltas)
        for row, factor, threshold in zip(deltas, factors, least, strict=True):
            mask = np.abs(row) >= threshold
            row += change
            row *= factor * mask
        return deltas

    def _change(self, deltas: Array, factors: Array) -> Array:
        """Δ [o, n]."""
        merged = added(deltas * factors[:, None, None])
        gap = np.einsum("mon,mon->mo", deltas, deltas - merged)
        total = factors.sum()
        shared = self._shared(deltas)

        def gradient(change: Array) -> Array:
            left = gap - total * np.einsum("mon,on->mo", deltas, change)
            slope = -2 * total * np.einsum("mo,mon->on", left, deltas)
            slope -= shared @ (shared.T @ slope)
            return np.asarray(slope)

        start = np.zeros_like(merged)
        return adam(gradient, start, rate=self.rate, steps=self.steps)

    def _shared(self, deltas: Array) -> Array:
        """An orthonormal basis [o, s] of the output directions that the models share most."""
        kept = each(deltas.shape[1:], len(deltas))
        left = np.concatenate([svd(delta)[0][:, :kept] for delta in deltas], axis=1)
        return svd(left)[0][:, : min(deltas.shape[1:]) // self.divisor]


@dataclass(frozen=True, kw_only=True)
class Doge(Merger):
    """Task vectors changed by one learned matrix, each in proportion to one over its length."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="doge",
        summary="Task vectors with one shared change, learned off the directions they share.",
        paper=Paper(
            title="Modeling Multi-Task Model Merging as Adaptive Projective Gradient Descent",
            authors=(
                "Yongxian Wei and Anke Tang and Li Shen and Zixuan Hu and Chun Yuan and "
                "Xiaochun Cao"
            ),
            year=2025,
            venue="International Conference on Machine Learning",
            url="https://arxiv.org/abs/2501.01230",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "all matrices but embeddings and language heads count; the authors take the encoder's",
            "each model shares at least one direction, however many models there are",
            "a layer equal to the base's has no part; the authors' code divides by its length",
        ),
        exceptions={
            "one_expert_is_returned": "the lengths of the task vectors are divided out",
            "equal_experts_keep_their_direction": "the lengths of the layers are divided out",
            "stretching": "the lengths of the task vectors are divided out",
            "any_size_is_finite": "the lengths of the task vectors are divided out",
        },
    )
    scale: float = 0.07
    keep: float = 0.3
    divisor: int = 6
    steps: int = 400
    rate: float = 1e-4
    leave: tuple[str, ...] = TABLES

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is a share above 0 and at most 1, not {self.keep:g}")
        if self.divisor < 1 or self.steps < 0 or self.rate <= 0:
            raise ValueError("doge needs a divisor of 1 or more, steps and a rate above 0")

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """With and without shared directions on the contract's small matrices."""
        return ({}, {"divisor": 2, "keep": 1.0})

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """Adjust, then add up."""
        adjusted = Adjusted(
            keep=self.keep,
            scale=self.scale,
            divisor=self.divisor,
            steps=self.steps,
            rate=self.rate,
            leave=tuple(self.leave),
        )
        return Pipeline(edits=(adjusted,), combine=Sum())
