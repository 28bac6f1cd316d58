"""TALL masks: every task keeps, of one merged task vector, the entries that are its own.

    δ = merge(δ_1, …, δ_M),   mask_m = 1[|δ_m| > λ_m |δ − δ_m|],   θ_m = θ₀ + mask_m ⊙ δ

with δ_m = θ_m − θ₀ [*s] and merge the sum, or any other ``method`` over task vectors at the scale 1
(the authors also take TIES with the disjoint sum). The model's tensors are θ₀ + δ; every task
serves its own θ_m, which it takes one bit per entry to keep. λ_m is ``threshold``: one number, or
one for each model by name.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([4.0, 0.0, 3.0])}, "b": {"w": np.array([0.0, 5.0, 1.0])}},
...             base={"w": np.zeros(3)})
>>> merged = TallMasks().merge(pool)
>>> merged.tasks["a"]["w"], merged.tasks["b"]["w"]
(array([4., 0., 4.]), array([0., 5., 0.]))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from plait.merging.base import Merger, Pipeline, inner_pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stage import Context, Overlay
from plait.merging.stages.tall import own_entries, thresholds
from plait.method import Card, Law, Method, Need, Paper
from plait.weights.sites import Site


@dataclass(frozen=True, kw_only=True)
class Own(Overlay):
    """The entries of the merged delta that are each model's own."""

    looks_back: ClassVar[bool] = True
    thresholds: tuple[float, ...]

    def layout(self, site: Site) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """A mask."""
        return {"mask": ("BOOL", site.shape)}

    def keep(self, delta: Array, ctx: Context) -> dict[str, Array]:
        """The models' masks [M, n]."""
        assert ctx.original is not None
        return {"mask": own_entries(ctx.original, delta, self.thresholds)}

    def serve(self, delta: Array, kept: Mapping[str, Array]) -> Array:
        """What of the delta is the task's own."""
        return np.asarray(delta * kept["mask"])


@dataclass(frozen=True, kw_only=True)
class TallMasks(Merger):
    """One merged task vector, and for every task the mask of its own entries."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="tall_masks",
        summary="One merged task vector, and for every task a mask of what is its own.",
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
        needs=frozenset({Need.BASE, Need.TASK_ID}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=("λ = 0.4 unless given; the authors choose it for every task on validation",),
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"threshold": "keys"}
    parts: ClassVar[Mapping[str, str]] = {"method": "merging"}
    method: Method | str | Mapping[str, Any] = "task_arithmetic"
    threshold: float | Mapping[str, float] = 0.4

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """On the sum, and on TIES."""
        return ({}, {"method": {"ties": {"reduce": "sum"}}, "threshold": 0.2})

    def pipeline(self, pool: Pool) -> Pipeline:
        """The method's pipeline, unscaled, and masks beside."""
        line = inner_pipeline(self.method, pool, self.card.name)
        own = Own(thresholds=thresholds(self.threshold, pool.names))
        return replace(line, scale=1.0, overlay=own)
