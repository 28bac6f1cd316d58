"""PCB-Merging: balance entries by how large they are and how well they agree, and keep the best.

    a_m = |δ_m| clipped to its 1 % and 99 % places,   N = min-max to [0, 1],   u_m = sgn(δ_m) N(a_m)
    b_m = exp(M N(a_m)²) ⊙ Σ_j tanh(u_m ⊙ u_j),   s_m = N(b_m raised to its (1 − keep) place)
    θ = θ₀ + Σ_m λ s_m ⊙ sgn(δ_m) a_m / Σ_m s_m

with δ_m = θ_m − θ₀ over the whole model; places, minima and maxima are those of each model's P
entries, j runs over all M models, m among them, and 0/0 is 0. So the share ``keep`` of each model
has a weight s_m above zero. λ is ``scale``; where it is not given it is the value of ``grid`` with
the lowest validation loss, and 1.2 without validation rows.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([4.0, 1.0, 0.0])}, "b": {"w": np.array([0.0, 2.0, -8.0])}},
...             base={"w": np.zeros(3)})
>>> Pcb(keep=0.5, clip=0.0, scale=1.0).merge(pool).tensors["w"]
array([ 4.,  0., -8.])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pipeline import Free
from plait.merging.pool import Array, Pool
from plait.merging.stage import Combine, Context
from plait.merging.stages.cuts import Cut
from plait.merging.stages.sums import added, weigh
from plait.method import Card, Law, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Bound(Cut):
    """The magnitude at one end of what is not clipped; the deltas stay as they are."""

    clip: float
    end: Literal["low", "high"]

    def rank(self, count: int) -> int:
        """⌊count·clip⌋, or ⌊count·(1 − clip) − 1⌋."""
        if self.end == "low":
            return min(int(count * self.clip), count - 1)
        return max(int(count * (1 - self.clip) - 1), 0)

    def __call__(self, deltas: Array, ctx: Context) -> Array:  # noqa: ARG002
        """Leave them."""
        return deltas


@dataclass(frozen=True, kw_only=True)
class Balance(Cut):
    """The score at a place of each model's scores; the deltas stay as they are."""

    bounds: tuple[Bound, Bound]
    share: float

    def rank(self, count: int) -> int:
        """The (1 − share) place; the last one for none."""
        return min(int(count * (1 - self.share)), count - 1)

    def scan(self, values: Array, ctx: Context) -> Array:
        """Counts of digits of the scores."""
        return super().scan(self.scores(values, ctx)[0], ctx)

    def scores(self, deltas: Array, ctx: Context) -> tuple[Array, Array]:
        """The scores b_m, not below zero, and the clipped magnitudes: both [M, n]."""
        low, high = (bound.thresholds(ctx, deltas)[:, None] for bound in self.bounds)
        size = np.clip(np.abs(deltas), low, np.maximum(low, high))
        unit = np.divide(size - low, high - low, out=np.zeros_like(size), where=high > low)
        signed = np.sign(deltas) * unit
        agreement = np.zeros_like(unit)
        for first, one in enumerate(signed):
            agreement[first] += np.tanh(one * one)
            for second in range(first):
                shared = np.tanh(one * signed[second])
                agreement[first] += shared
                agreement[second] += shared
        agreement *= np.exp(len(deltas) * np.square(unit))
        return np.maximum(agreement, 0), size

    def __call__(self, deltas: Array, ctx: Context) -> Array:  # noqa: ARG002
        """Leave them."""
        return deltas


@dataclass(frozen=True, kw_only=True)
class Balanced(Combine):
    """The clipped deltas, averaged by their scores between two places of these."""

    least: Balance
    most: Balance

    @property
    def linear(self) -> bool:
        """Scores do not depend on the coefficients."""
        return True

    def __call__(self, deltas: Array, coefficients: Array, ctx: Context) -> Array:
        """Σ_m λ s_m â_m / Σ_m s_m."""
        score, size = self.least.scores(deltas, ctx)
        low = self.least.thresholds(ctx, deltas)[:, None]
        high = self.most.thresholds(ctx, deltas)[:, None]
        above = np.maximum(score - low, 0)
        share = np.divide(above, high - low, out=np.zeros_like(above), where=high > low)
        merged = share * size * np.sign(deltas)
        weigh(merged, coefficients)
        total, shares = added(merged, into=merged[0]), added(share)
        total /= np.maximum(shares, total.dtype.type(1e-12))
        return total


@dataclass(frozen=True, kw_only=True)
class Pcb(Merger):
    """The best-balanced share ``keep`` of each task vector, averaged by its scores."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="pcb",
        summary="The mean of the task vectors' entries, weighed by size and agreement.",
        paper=Paper(
            title="Parameter Competition Balancing for Model Merging",
            authors=(
                "Guodong Du and Junlin Lee and Jing Li and Runhua Jiang and Yifei Guo and Shuyang "
                "Yu and Hanting Liu and Sim Kuan Goh and Ho-Kin Tang and Daojing He and Min Zhang"
            ),
            year=2024,
            venue="Advances in Neural Information Processing Systems",
            url="https://arxiv.org/abs/2410.02396",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "the formula of the authors' vision code, exp without a normaliser for softmax",
            "scores below zero count as zero, which matters where keep takes them in",
            "one λ for all models; the authors search one for each",
        ),
        exceptions={
            "one_expert_is_returned": "the smallest entry has the score zero",
            "equal_experts_keep_their_direction": "the smallest entry has the score zero",
        },
    )
    keep: float = 0.05
    clip: float = 0.01
    scale: float | None = None
    grid: tuple[float, ...] = (0.8, 0.9, 1.0, 1.1, 1.2, 1.3)

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is a share above 0 and at most 1, not {self.keep:g}")
        if not 0 <= self.clip < 0.5:
            raise ValueError(f"clip is a share from 0 to below 0.5, not {self.clip:g}")

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """The authors' settings, and a share that small models notice."""
        return ({}, {"keep": 0.5})

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """Places of magnitudes, places of scores, then the mean."""
        factor = Free(grid=tuple(self.grid), fallback=1.2) if self.scale is None else self.scale
        bounds = (Bound(clip=self.clip, end="low"), Bound(clip=self.clip, end="high"))
        least = Balance(bounds=bounds, share=self.keep)
        most = Balance(bounds=bounds, share=0.0)
        combine = Balanced(least=least, most=most)
        return Pipeline(edits=(*bounds, least, most), combine=combine, scale=factor)
