"""Model Breadcrumbs: of every row keep neither the outliers nor the many small entries, and add.

    θ = θ₀ + λ Σ_m mask_m ⊙ δ_m,   δ_m = θ_m − θ₀ [*s]

where, in every row of d entries along a tensor's last axis, mask_m drops the ⌊d·outliers⌋ largest
magnitudes and keeps the ⌊d·keep⌋ largest of the others. λ is ``scale``; where it is not given it is
the value of ``grid`` with the lowest validation loss, and 0.2 without validation rows.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([9.0, 1.0, -4.0, 3.0])}}, base={"w": np.zeros(4)})
>>> Breadcrumbs(keep=0.5, outliers=0.25, scale=1.0).merge(pool).tensors["w"]
array([ 0.,  0., -4.,  3.])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from plait.merging.base import Merger, Pipeline
from plait.merging.pipeline import Free
from plait.merging.pool import Pool
from plait.merging.stages.middle import Middle
from plait.merging.stages.sums import Sum
from plait.method import Card, Law, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Breadcrumbs(Merger):
    """Add up the middle of the task vectors: ``keep`` is the share of a row that survives."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="breadcrumbs",
        summary="The sum of the task vectors without each row's outliers and small entries.",
        paper=Paper(
            title="Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks",
            authors="MohammadReza Davari and Eugene Belilovsky",
            year=2024,
            venue="European Conference on Computer Vision",
            url="https://arxiv.org/abs/2312.06795",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "one entry of a row at least is kept, where the authors' code empties short rows",
            "λ = 0.2 without validation rows",
        ),
    )
    keep: float = 0.15
    outliers: float = 0.006
    scale: float | None = None
    grid: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

    def __post_init__(self) -> None:
        Middle(keep=self.keep, outliers=self.outliers)

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """All kept."""
        return {"keep": 1.0, "outliers": 0.0, "scale": 1.0}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """As it is, and with outliers even in short rows."""
        return ({}, {"keep": 0.4, "outliers": 0.25})

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """Both ends of every row zeroed, then the sum, its factor given or free."""
        factor = Free(grid=tuple(self.grid), fallback=0.2) if self.scale is None else self.scale
        middle = Middle(keep=self.keep, outliers=self.outliers)
        return Pipeline(edits=(middle,), combine=Sum(), scale=factor)
