"""Consensus merging: task arithmetic without the entries that too few tasks call their own.

    mask_m = 1[|δ_m| > λ_m |Σ_k δ_k − δ_m|],   θ = θ₀ + α 1[Σ_m mask_m ≥ agree] ⊙ Σ_m δ_m

with δ_m = θ_m − θ₀ [*s] and the masks those of :mod:`TALL masks <plait.merging.tall_masks>`, on the
sum before it is scaled. ``agree`` 1 leaves out what no task needs, 2 also what one task alone does.
λ_m is ``threshold``, one number or one for each model by name. α is ``scale``; where it is not
given it is the value of ``grid`` with the lowest validation loss, and 0.3 without validation rows.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([4.0, 0.0, 3.0])}, "b": {"w": np.array([0.0, 5.0, 2.0])}},
...             base={"w": np.zeros(3)})
>>> Consensus(scale=1.0).merge(pool).tensors["w"]
array([0., 0., 5.])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from plait.merging.base import Merger, Pipeline
from plait.merging.pipeline import Free
from plait.merging.pool import Array, Pool
from plait.merging.stage import Context, Edit
from plait.merging.stages.sums import Sum, added
from plait.merging.stages.tall import own_entries, thresholds
from plait.method import Card, Law, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Agreed(Edit):
    """Keep what at least ``agree`` models call their own in the sum of all."""

    thresholds: tuple[float, ...]
    agree: int

    def __call__(self, deltas: Array, ctx: Context) -> Array:  # noqa: ARG002
        """Zero the rest."""
        masks = own_entries(deltas, added(deltas), self.thresholds)
        deltas *= masks.sum(0) >= self.agree
        return deltas


@dataclass(frozen=True, kw_only=True)
class Consensus(Merger):
    """The scaled sum of the task vectors where at least ``agree`` tasks need it."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="consensus",
        summary="Task arithmetic without what too few tasks need.",
        paper=Paper(
            title="Localizing Task Information for Improved Model Merging and Compression",
            authors=(
                "Ke Wang and Nikolaos Dimitriadis and Guillermo Ortiz-Jimenez and "
                "Fran{\\c{c}}ois Fleuret and Pascal Frossard"
            ),
            year=2024,
            venue="International Conference on Machine Learning",
            url="https://arxiv.org/abs/2405.07813",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "on task arithmetic only; the authors also mask TIES's task vector",
            "λ = 0.4 unless given, α = 0.3 without validation rows; the authors choose both there",
        ),
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"threshold": "keys"}
    agree: int = 2
    threshold: float | Mapping[str, float] = 0.4
    scale: float | None = None
    grid: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """Nothing left out."""
        return {"agree": 0, "scale": 1.0}

    def pipeline(self, pool: Pool) -> Pipeline:
        """The masked sum, its factor given or free."""
        factor = Free(grid=tuple(self.grid), fallback=0.3) if self.scale is None else self.scale
        agreed = Agreed(thresholds=thresholds(self.threshold, pool.names), agree=self.agree)
        return Pipeline(edits=(agreed,), combine=Sum(), scale=factor)
