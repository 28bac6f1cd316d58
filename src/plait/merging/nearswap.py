"""NearSwap: move every weight of the base towards another model's, by at most one fixed step.

    θ = θ₀ + clip(θ₁ − θ₀, −t, t)

entry by entry on the tensors [*s] of the base θ₀ and the one model θ₁: where the two are nearer
than t the model's weight replaces the base's.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([1.05, 2.0, 0.0])}}, base={"w": np.ones(3)})
>>> Nearswap(t=0.25).merge(pool).tensors["w"]
array([1.05, 1.25, 0.75])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stage import Context, Edit
from plait.merging.stages.sums import Sum
from plait.method import Card, Need


@dataclass(frozen=True, kw_only=True)
class Clip(Edit):
    """Deltas no larger than ``most``."""

    most: float

    def __call__(self, deltas: Array, ctx: Context) -> Array:  # noqa: ARG002
        """Clip in place."""
        return np.asarray(np.clip(deltas, -self.most, self.most, out=deltas))


@dataclass(frozen=True, kw_only=True)
class Nearswap(Merger):
    """One model drawn into its base by at most ``t`` for each weight."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="nearswap",
        summary="A base moved towards one model, every weight by at most a fixed step.",
        needs=frozenset({Need.BASE}),
        deviations=(
            "differences below 1e-6 are not damped where t is smaller still, as mergekit does",
        ),
        exceptions={
            "stretching": "t is the same for weights of any size",
            "any_size_is_finite": "t is the same for weights of any size",
        },
    )
    count: ClassVar[int | None] = 1
    t: float = 1e-4

    def __post_init__(self) -> None:
        if not self.t >= 0:
            raise ValueError(f"t is a step of 0 or more, not {self.t:g}")

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """A step longer than any difference."""
        return {"t": float("inf")}

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """The clipped delta."""
        return Pipeline(edits=(Clip(most=self.t),), combine=Sum())
