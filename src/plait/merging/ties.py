"""TIES: trim each task vector, elect a sign for every entry, average the models that agree.

    δ̃_m = δ_m ⊙ 1[|δ_m| ≥ t_m],   s = sgn(Σ_m δ̃_m),   θ = θ₀ + λ Σ_m a_m δ̃_m / max(1, Σ_m a_m)

with δ_m = θ_m − θ₀ [*s], a_m = 1[sgn δ̃_m = s] [*s], and t_m the (P − ⌊P·keep⌋)-th smallest of the
P magnitudes of model m's whole task vector (with ``per="tensor"``, of the tensor's). Entries whose
sum is exactly zero take the majority of the signs of all entries. λ is ``scale``; where it is not
given it is the value of ``grid`` with the lowest validation loss, and 1 without validation rows.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([4.0, 0.1, 3.0])}, "b": {"w": np.array([2.0, 5.0, -9.0])}},
...             base={"w": np.zeros(3)})
>>> Ties(keep=0.5).merge(pool).tensors["w"]
array([ 4.,  5., -9.])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from plait.merging.base import Merger, Pipeline
from plait.merging.pipeline import Free
from plait.merging.pool import Pool
from plait.merging.stages.cuts import Trim
from plait.merging.stages.signs import Agreeing
from plait.method import Card, Law, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Ties(Merger):
    """Trim, elect signs, and average what agrees; ``keep`` is the share that is not trimmed.

    ``reduce="sum"`` adds the agreeing task vectors up in place of averaging them; it wants a
    smaller ``scale``.
    """

    card: ClassVar[Card] = Card(
        family="merging",
        name="ties",
        summary="The mean of the largest entries of the task vectors that agree in sign.",
        paper=Paper(
            title="TIES-Merging: Resolving Interference When Merging Models",
            authors=(
                "Prateek Yadav and Derek Tam and Leshem Choshen and Colin Raffel and Mohit Bansal"
            ),
            year=2023,
            venue="Advances in Neural Information Processing Systems",
            url="https://arxiv.org/abs/2306.01708",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "keep = 1 trims nothing, where the authors' code asks for the 0-th smallest value",
            "where sum and majority are zero so is the delta; the authors' code takes negatives",
        ),
    )
    keep: float = 0.2
    scale: float | None = None
    grid: tuple[float, ...] = (
        0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.1, 2.2, 2.3, 2.4, 2.5,
    )  # fmt: skip
    per: Literal["model", "tensor"] = "model"
    reduce: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is a share above 0 and at most 1, not {self.keep:g}")

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Both ways to trim and to reduce."""
        return ({}, {"per": "tensor"}, {"reduce": "sum"})

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """Trim, then combine what agrees."""
        over: Literal["count", "nothing"] = "count" if self.reduce == "mean" else "nothing"
        factor = Free(grid=tuple(self.grid), fallback=1.0) if self.scale is None else self.scale
        edits = (Trim(keep=self.keep, per=self.per),) if self.keep < 1 else ()
        return Pipeline(edits=edits, combine=Agreeing(over=over), scale=factor)
