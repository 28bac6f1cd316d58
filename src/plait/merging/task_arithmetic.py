"""Task arithmetic: add the task vectors to the base, scaled by one coefficient.

    θ = θ₀ + λ Σ_m δ_m,   δ_m = θ_m − θ₀

with θ₀ [*s] the base's and θ_m [*s] the models' tensors at a site. λ is ``scale``; where it is not
given it is the value of ``grid`` with the lowest validation loss, and 0.3 without validation rows.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([1.0, 2.0])}, "b": {"w": np.array([3.0, 2.0])}},
...             base={"w": np.array([1.0, 1.0])})
>>> TaskArithmetic(scale=0.5).merge(pool).tensors["w"]
array([2., 2.])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from plait.merging.base import Merger, Pipeline
from plait.merging.pipeline import Free
from plait.merging.pool import Pool
from plait.merging.stages.sums import Sum
from plait.method import Card, Law, Need, Paper


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(Merger):
    """The base plus λ times the sum of the task vectors."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="task_arithmetic",
        summary="The base plus a common multiple of the sum of the models' task vectors.",
        paper=Paper(
            title="Editing Models with Task Arithmetic",
            authors=(
                "Gabriel Ilharco and Marco Tulio Ribeiro and Mitchell Wortsman and "
                "Suchin Gururangan and Ludwig Schmidt and Hannaneh Hajishirzi and Ali Farhadi"
            ),
            year=2023,
            venue="International Conference on Learning Representations",
            url="https://arxiv.org/abs/2212.04089",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "models whose tensors differ are refused; the authors' code drops such tensors",
            "λ = 0.3 without validation rows, where the authors' class uses 1",
        ),
    )
    scale: float | None = None
    grid: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """The sum of the deltas, its factor given or free."""
        factor = Free(grid=tuple(self.grid), fallback=0.3) if self.scale is None else self.scale
        return Pipeline(combine=Sum(), scale=factor)
