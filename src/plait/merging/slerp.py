"""SLERP: two models, interpolated along the arc between them.

    θ = (sin((1 − t) ω)/sin ω) θ₁ + (sin(t ω)/sin ω) θ₂,   ω = the angle between θ₁ and θ₂ [*s]

tensor by tensor, on the weights themselves. Where the angle is too small to matter, |cos ω| above
0.9995, and between opposite tensors the interpolation is linear.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([1.0, 0.0])}, "b": {"w": np.array([0.0, 1.0])}})
>>> Slerp(t=1 / 3).merge(pool).tensors["w"].round(3)
array([0.866, 0.5  ])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stages.grams import Spanned, cosines, turned
from plait.method import Card

NEAR = 0.9995


@dataclass(frozen=True, kw_only=True)
class Arc(Spanned):
    """The place at ``t`` on the arc from the first to the second."""

    t: float

    def weights(self, gram: Array, coefficients: Array) -> Array:  # noqa: ARG002
        """Those of the arc, or of the line."""
        cosine = cosines(gram)[..., 0, 1]
        return turned(cosine, self.t, np.abs(cosine) > NEAR)


@dataclass(frozen=True, kw_only=True)
class Slerp(Merger):
    """The model at the share ``t`` of the way from the first model to the second."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="slerp",
        summary="Two models, interpolated along the arc between them, tensor by tensor.",
        exceptions={
            "translation": "arcs are about zero, not about the base",
            "stretching": "arcs are about zero, not about the base",
        },
    )
    count: ClassVar[int | None] = 2
    t: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.t <= 1:
            raise ValueError(f"t is a share from 0 to 1, not {self.t:g}")

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """One combination of the tensors themselves."""
        return Pipeline(combine=Arc(t=self.t), against_base=False)
