"""OPCM: merge the models one after another, each freed of the directions that are there already.

    D_t = D_{t−1} + δ̃_t,   δ̃_t = U (P ⊙ M) Vᵀ,   P = Uᵀ δ_t V,   D_{t−1} = U diag(σ) Vᵀ
    θ = θ₀ + D ν/‖D‖,   ν = 1/M Σ_m ‖δ_m‖

with δ_m = θ_m − θ₀ and D_1 = δ_1, for every matrix [o, n]; U [o, o] and V [n, n] are whole bases.
M is 0 on P's diagonal and on its first k rows and columns, and 1 elsewhere; k is the number of
leading singular values whose sum is at most the share ``alpha`` of all. Other tensors are added as
they are. Norms are those of the whole model. The paper rescales after every model; since δ̃ depends
on the directions of D alone, once at the end is the same.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> base = {"w": np.zeros((2, 2))}
>>> pool = Pool({"a": {"w": np.diag([3.0, 0.0])}, "b": {"w": np.array([[5.0, 4.0], [0.0, 0.0]])}},
...             base)
>>> Opcm(alpha=0.5).merge(pool).tensors["w"].round(3)  # what b does where a was is taken out
array([[2.821, 3.761],
       [0.   , 0.   ]])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stage import Combine, Context, Grain
from plait.merging.stages.spectral import above_rounding, svd
from plait.method import Card, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Opcm(Merger):
    """Task vectors added in the order of the pool, each projected off those before it."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="opcm",
        summary="Models merged one after another, each projected off what is there already.",
        paper=Paper(
            title=(
                "Merging Models on the Fly Without Retraining: A Sequential Approach to Scalable "
                "Continual Model Merging"
            ),
            authors=(
                "Anke Tang and Enneng Yang and Li Shen and Yong Luo and Han Hu and Bo Du and "
                "Dacheng Tao"
            ),
            year=2025,
            venue="Advances in Neural Information Processing Systems",
            url="https://arxiv.org/abs/2501.09522",
        ),
        needs=frozenset({Need.BASE, Need.ORDERED}),
        deviations=(
            "the order is the pool's; the authors draw one",
            "every matrix is projected, tables too; the authors' code takes linear layers",
            "singular vectors whose value is rounding take nothing out, as any would do for them",
        ),
        exceptions={
            "equal_experts_keep_their_direction": "a copy adds nothing to matrices, but to vectors"
        },
    )
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], got {self.alpha:g}")

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Half and most of the singular values."""
        return ({}, {"alpha": 0.9})

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """One sum for each tensor, and one factor for all."""
        return Pipeline(combine=Projected(alpha=self.alpha))


@dataclass(frozen=True, kw_only=True)
class Projected(Combine):
    """The sum of projected task vectors, brought to the mean of their norms."""

    grain: ClassVar[Grain] = Grain.TENSOR
    alpha: float

    @property
    def whole(self) -> bool:
        """Norms are over the whole model."""
        return True

    def passes(self, working: np.dtype[Any]) -> int:  # noqa: ARG002
        """One for the norms."""
        return 1

    def scan(self, values: Array, ctx: Context) -> Array:  # noqa: ARG002
        """Squared norms [1 + M] of the sum and of the models' deltas."""
        squares = [_square(row) for row in (self._summed(values.copy()), *values)]
        return np.array(squares)

    def settle(self, total: Array, found: tuple[Any, ...]) -> float:  # noqa: ARG002
        """The factor ν/‖D‖."""
        length, *lengths = np.sqrt(total)
        return float(np.mean(lengths) / length) if length else 1.0

    def __call__(self, deltas: Array, coefficients: Array, ctx: Context) -> Array:  # noqa: ARG002
        """The sum, times the factor."""
        summed = self._summed(deltas)
        summed *= deltas.dtype.type(ctx.found[0])
        return summed

    def _summed(self, deltas: Array) -> Array:
        total: Array = deltas[0]
        for delta in deltas[1:]:
            total += self._cleaned(delta, total) if delta.ndim == 2 else delta
        return total

    def _cleaned(self, delta: Array, total: Array) -> Array:
        """What a delta [o, n] has beside a total [o, n]; thin factors do, U and V being whole."""
        u, sigma, vt = svd(total)
        there = above_rounding(sigma, total.shape)
        u, sigma, vt = u[:, there], sigma[there], vt[there]
        if not len(sigma):
            return delta
        inside = u.T @ delta @ vt.T
        beyond = np.flatnonzero(np.cumsum(sigma) > self.alpha * sigma.sum())
        leading = int(beyond[0]) if len(beyond) else 0
        taken = np.diag(np.diagonal(inside)).copy()
        taken[:leading, :leading] = inside[:leading, :leading]
        return np.asarray(delta - u @ taken @ vt)


def _square(values: Array) -> float:
    flat = values.reshape(-1).astype(np.float64)
    return float(flat @ flat)
