"""DELLA: keep entries at random, the larger of a row more often, then elect signs and average.

    p = keep + window · ((k − 1)/(d − 1) − ½),   δ̃_m = δ_m ⊙ z_m / p,   z_m ~ Bernoulli(p)
    s = sgn(Σ_m δ̃_m),   θ = θ₀ + λ Σ_m a_m δ̃_m / max(1, Σ_m a_m),   a_m = 1[sgn δ̃_m = s]

with δ_m = θ_m − θ₀ [*s] and k = 1, …, d the rank of an entry's magnitude in its row of d, so that p
rises from keep − window/2 to keep + window/2. With ``elect=False`` all models count everywhere.
Draws depend on the seed, the model, the tensor and the place in it, nothing else. λ is ``scale``;
where it is not given it is the value of ``grid`` with the lowest validation loss, and 1 without.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.full(8, 5.0)}}, base={"w": np.zeros(8)})
>>> Della(keep=0.5, window=0.0).merge(pool).tensors["w"]
array([ 0.,  0., 10., 10.,  0., 10., 10., 10.])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pipeline import Free
from plait.merging.pool import Array, Pool
from plait.merging.stage import Combine, Context, Edit, Grain
from plait.merging.stages.drops import STEPS
from plait.merging.stages.signs import Agreeing
from plait.merging.stages.sums import Sum
from plait.method import Card, Need, Paper


@dataclass(frozen=True, kw_only=True)
class ByRank(Edit):
    """Keep entries with a probability that rises with their rank in the row, and divide by it.

    Probabilities are rounded to 1/65,536.
    """

    grain: ClassVar[Grain] = Grain.ROW
    keep: float
    window: float
    seed: int = 0

    def __call__(self, deltas: Array, ctx: Context) -> Array:
        """Drop and rescale [M, rows, d]."""
        width = deltas.shape[-1]
        rise = np.linspace(-0.5, 0.5, width) if width > 1 else np.zeros(1)
        steps = np.round((self.keep + self.window * rise) * STEPS)
        factor = (STEPS / steps).astype(deltas.dtype)
        for model, rows in zip(ctx.models, deltas, strict=True):
            order = np.argsort(np.abs(rows), axis=-1, kind="stable")
            numbers = ctx.draws(self.seed, model).integers(ctx.start, ctx.start + rows.size)
            drawn = np.take_along_axis(numbers.reshape(rows.shape), order, axis=-1)
            sized = np.take_along_axis(rows, order, axis=-1)
            np.put_along_axis(rows, order, sized * (drawn < steps) * factor, axis=-1)
        return deltas


@dataclass(frozen=True, kw_only=True)
class Della(Merger):
    """Thin out by magnitude around the share ``keep``, elect signs, average what agrees."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="della",
        summary="Task vectors thinned out at random, small entries first, then merged by sign.",
        paper=Paper(
            title=(
                "DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based "
                "Sampling"
            ),
            authors="Pala Tej Deep and Rishabh Bhardwaj and Soujanya Poria",
            year=2024,
            venue="arXiv",
            url="https://arxiv.org/abs/2406.11617",
        ),
        needs=frozenset({Need.BASE}),
        deviations=(
            "probabilities are rounded to 1/65,536 and the rescaling is by the rounded ones",
            "a row of one entry is kept at the rate keep; the authors' code divides zero by zero",
            "all models weigh the same",
        ),
    )
    keep: float = 0.7
    window: float = 0.14
    elect: bool = True
    seed: int = 0
    scale: float | None = None
    grid: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5)

    def __post_init__(self) -> None:
        half = self.window / 2
        if not (half >= 0 and self.keep - half > 0 and self.keep + half <= 1):
            raise ValueError(
                f"keep ± window/2 must lie above 0 and at most at 1, and {self.keep:g} ± {half:g} "
                "does not; make the window smaller"
            )

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """All kept."""
        return {"keep": 1.0, "window": 0.0, "scale": 1.0}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """With the election and without."""
        return ({}, {"keep": 0.4, "window": 0.6, "elect": False})

    def pipeline(self, pool: Pool) -> Pipeline:
        """The drop by rank, then a mean of what agrees or of all."""
        factor = Free(grid=tuple(self.grid), fallback=1.0) if self.scale is None else self.scale
        combine: Combine = Agreeing(zero="plus") if self.elect else Sum(over=len(pool))
        drop = ByRank(keep=self.keep, window=self.window, seed=self.seed)
        return Pipeline(edits=(drop,), combine=combine, scale=factor)
