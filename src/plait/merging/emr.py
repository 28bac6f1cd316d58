"""EMR-Merging: elect one task vector, and give every task a mask and a rescaler for it.

    γ = +1 where Σ_m δ_m > 0, else −1;   u = γ ⊙ max_m(|δ_m| ⊙ mask_m);   mask_m = 1[δ_m γ > 0]
    θ_m = θ₀ + λ_m mask_m ⊙ u,   λ_m = Σ_sites mean|δ_m| / Σ_sites mean|mask_m ⊙ u|

with δ_m = θ_m − θ₀ [*s]. The model's tensors are θ₀ + u; every task serves its own θ_m, which it
takes one bit per entry and one number to keep. A site counts in λ_m by its mean however many
entries it has; with ``by="entry"`` every entry counts the same.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([4.0, 0.0, 3.0])}, "b": {"w": np.array([2.0, 5.0, -9.0])}},
...             base={"w": np.zeros(3)})
>>> merged = Emr().merge(pool)
>>> merged.tensors["w"]
array([ 4.,  5., -9.])
>>> merged.tasks["b"]["w"].round(2)
array([ 3.56,  4.44, -8.  ])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stage import Combine, Context, Overlay
from plait.merging.stages.sums import added, weigh
from plait.method import Card, Law, Need, Paper
from plait.weights.sites import Site


@dataclass(frozen=True, kw_only=True)
class Elect(Combine):
    """The largest magnitude among the models that have the sign of the sum, with that sign."""

    @property
    def linear(self) -> bool:
        """It scales with the deltas."""
        return True

    def __call__(self, deltas: Array, coefficients: Array, ctx: Context) -> Array:  # noqa: ARG002
        """Elect entry by entry."""
        weigh(deltas, coefficients)
        sign = np.where(added(deltas) > 0, 1, -1).astype(deltas.dtype)
        return np.asarray(sign * np.maximum((deltas * sign).max(0), 0))


@dataclass(frozen=True, kw_only=True)
class Masks(Overlay):
    """Where each model agrees with the elected sign, and the factor that keeps its size."""

    looks_back: ClassVar[bool] = True
    by: Literal["site", "entry"] = "site"

    @property
    def whole(self) -> bool:
        """The factors are over the whole model."""
        return True

    def passes(self, working: np.dtype[Any]) -> int:  # noqa: ARG002
        """One, for the factors."""
        return 1

    def scan(self, values: Array, ctx: Context) -> Array:
        """The mean magnitudes [2, M] of the models and of what their masks leave."""
        assert ctx.original is not None
        weight = 1 / ctx.site.size if self.by == "site" else 1.0
        own = np.abs(ctx.original).sum(1, dtype=np.float64)
        left = (np.abs(values) * self._masks(values, ctx)).sum(1, dtype=np.float64)
        return np.stack([own, left]) * weight

    def settle(self, total: Array, found: tuple[Any, ...]) -> Array:  # noqa: ARG002
        """The factors [M]; 1 for a model that is nowhere on the elected side."""
        own, left = total
        return np.asarray(np.divide(own, left, out=np.ones_like(own), where=left > 0))

    def layout(self, site: Site) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """A mask and a factor."""
        return {"mask": ("BOOL", site.shape), "factor": ("F64", ())}

    def keep(self, delta: Array, ctx: Context) -> dict[str, Array]:
        """The models' masks [M, n] and factors [M]."""
        return {"mask": self._masks(delta, ctx), "factor": ctx.found[0]}

    def serve(self, delta: Array, kept: Mapping[str, Array]) -> Array:
        """λ mask ⊙ u."""
        return np.asarray(kept["factor"].astype(delta.dtype) * (delta * kept["mask"]))

    @staticmethod
    def _masks(delta: Array, ctx: Context) -> Array:
        assert ctx.original is not None
        sign = np.where(added(ctx.original) > 0, 1, -1).astype(delta.dtype)
        return np.asarray(ctx.original * sign > 0)


@dataclass(frozen=True, kw_only=True)
class Emr(Merger):
    """One elected task vector; masks and rescalers for the tasks."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="emr",
        summary="One elected task vector, and for every task a mask and a rescaler of its own.",
        paper=Paper(
            title="EMR-Merging: Tuning-Free High-Performance Model Merging",
            authors=(
                "Chenyu Huang and Peng Ye and Tao Chen and Tong He and Xiangyu Yue and Wanli Ouyang"
            ),
            year=2024,
            venue="Advances in Neural Information Processing Systems",
            url="https://arxiv.org/abs/2405.17461",
        ),
        needs=frozenset({Need.BASE, Need.TASK_ID}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "a site counts by its mean, as in the authors' code; by=entry is the paper's formula",
        ),
    )
    by: Literal["site", "entry"] = "site"

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Both ways to count."""
        return ({}, {"by": "entry"})

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """Elect, and keep masks beside."""
        return Pipeline(combine=Elect(), overlay=Masks(by=self.by))
