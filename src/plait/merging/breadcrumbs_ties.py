"""Breadcrumbs with an election: the middle of every row, added up where signs agree.

    δ̃_m = mask_m ⊙ δ_m,   s = sgn(Σ_m w_m δ̃_m),   θ = θ₀ + λ Σ_m 1[sgn(w_m δ̃_m) = s] w_m δ̃_m

with δ_m = θ_m − θ₀ [*s], mask_m that of :mod:`breadcrumbs <plait.merging.breadcrumbs>`, the sign
of :mod:`TIES <plait.merging.ties>` (where models cancel, +) and w_m the model's weight, 1 unless
given. It is mergekit's method of this name; λ is ``scale``.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([9.0, 1.0, -4.0, 3.0])},
...              "b": {"w": np.array([9.0, 1.0, 2.0, 5.0])}}, base={"w": np.zeros(4)})
>>> BreadcrumbsTies(keep=0.5, outliers=0.25).merge(pool).tensors["w"]
array([ 0.,  0., -4.,  8.])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Pool
from plait.merging.stages.middle import Middle
from plait.merging.stages.signs import Agreeing
from plait.method import Card, Law, Need, Paper


@dataclass(frozen=True, kw_only=True)
class BreadcrumbsTies(Merger):
    """The middle of the task vectors, added up where it has the elected sign."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="breadcrumbs_ties",
        summary="Breadcrumbs whose entries must agree with an elected sign.",
        paper=Paper(
            title="Arcee's MergeKit: A Toolkit for Merging Large Language Models",
            authors=(
                "Charles Goddard and Shamane Siriwardhana and Malikeh Ehghaghi and Luke Meyers and "
                "Vladimir Karpukhin and Brian Benedict and Mark McQuade and Jacob Solawetz"
            ),
            year=2024,
            venue="Conference on Empirical Methods in Natural Language Processing: Industry Track",
            url="https://arxiv.org/abs/2403.13257",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "masks are by row, as in the breadcrumbs paper; mergekit masks whole tensors",
            "one entry of a row at least is kept",
        ),
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"weights": "keys"}
    keep: float = 0.15
    outliers: float = 0.006
    weights: Mapping[str, float] | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        Middle(keep=self.keep, outliers=self.outliers)

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """All kept."""
        return {"keep": 1.0, "outliers": 0.0}

    def pipeline(self, pool: Pool) -> Pipeline:
        """Both ends of every row zeroed, then the sum of what agrees."""
        weights = dict(self.weights or dict.fromkeys(pool.names, 1.0))
        return Pipeline(
            edits=(Middle(keep=self.keep, outliers=self.outliers),),
            combine=Agreeing(over="nothing", zero="plus"),
            scale={name: self.scale * weight for name, weight in weights.items()},
        )
