"""RAM: changes that one model alone has made stay whole, changes that several share are averaged.

    δ = Σ_m f_m a_m δ_m / max(n, 1),   a_m = 1[|δ_m| > ε],   n = Σ_m a_m

with δ_m = θ_m − θ₀ [*s]. In RAM+ what only model m has changed (n = 1) is enlarged by

    f_m = 1 + r · clip(shared_m/unique_m, 0, α)

with the numbers of entries that m has changed with others and alone, over the whole model or
(``per="tensor"``) the tensor; f_m = 1 elsewhere and in plain RAM, ``r`` = 0.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([2.0, 4.0, 0.0])}, "b": {"w": np.array([0.0, 2.0, 6.0])}},
...             base={"w": np.zeros(3)})
>>> Ram(r=0).merge(pool).tensors["w"]
array([2., 3., 6.])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stage import Combine, Context
from plait.merging.stages.sums import added
from plait.method import Card, Law, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Shared(Combine):
    """Unique changes enlarged, shared ones averaged."""

    r: float
    most: float
    epsilon: float
    per: Literal["model", "tensor"]

    @property
    def whole(self) -> bool:
        """Whether changes are counted over the whole model."""
        return self.per == "model"

    def passes(self, working: np.dtype[Any]) -> int:  # noqa: ARG002
        """One, where unique changes are enlarged."""
        return 1 if self.r else 0

    def scan(self, values: Array, ctx: Context) -> Array:  # noqa: ARG002
        """How many changes are shared and unique [2, M]."""
        active, count = self._active(values)
        shared, unique = active & (count > 1), active & (count == 1)
        return np.stack([shared.sum(1), unique.sum(1)])

    def settle(self, total: Array, found: tuple[Any, ...]) -> Array:  # noqa: ARG002
        """The factors [M] of unique changes."""
        shared, unique = total
        ratio = shared / np.maximum(unique, 1)  # the factor of a model without any is not used
        return np.asarray(1 + self.r * np.clip(ratio, 0, self.most))

    def __call__(self, deltas: Array, coefficients: Array, ctx: Context) -> Array:  # noqa: ARG002
        """Add up, the unique enlarged, and divide by how many changed an entry."""
        active, count = self._active(deltas)
        deltas *= active
        if self.r:
            factors = ctx.found[0].astype(deltas.dtype)
            deltas *= np.where(count == 1, factors[:, None], deltas.dtype.type(1))
        total = added(deltas, into=deltas[0])
        total /= np.maximum(count, 1)
        return total

    def _active(self, deltas: Array) -> tuple[Array, Array]:
        """Which entries each model has changed [M, n], and how many have [n]."""
        active = np.abs(deltas) > self.epsilon
        return active, active.sum(0)


@dataclass(frozen=True, kw_only=True)
class Ram(Merger):
    """RAM+; plain RAM with ``r`` = 0. A change is what is larger than ``epsilon``."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="ram",
        summary="Changes of one model alone enlarged a little, changes of several averaged.",
        paper=Paper(
            title="Behavior Knowledge Merge in Reinforced Agentic Models",
            authors=(
                "Xiangchi Yuan and Dachuan Shi and Chunhui Zhang and Zheyuan Liu and Shenglong Yao "
                "and Soroush Vosoughi and Wenke Lee"
            ),
            year=2026,
            venue="arXiv",
            url="https://arxiv.org/abs/2601.13572",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        exceptions={"any_size_is_finite": "epsilon is the same for weights of any size"},
    )
    r: float = 0.1
    alpha: float = 0.2
    epsilon: float = 1e-5
    per: Literal["model", "tensor"] = "model"

    def __post_init__(self) -> None:
        if min(self.r, self.alpha, self.epsilon) < 0:
            raise ValueError("r, alpha and epsilon of ram are 0 or more")

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """Nothing enlarged, and every change counted."""
        return {"r": 0.0, "epsilon": 0.0}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Changes counted over the model and the tensor; plain RAM."""
        return ({"epsilon": 0.2}, {"epsilon": 0.2, "per": "tensor"}, {"r": 0.0})

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """One combination."""
        combine = Shared(r=self.r, most=self.alpha, epsilon=self.epsilon, per=self.per)
        return Pipeline(combine=combine)
