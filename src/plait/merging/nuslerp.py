"""NuSLERP: two models on the arc between them, by tensor or row, about zero or the base.

    v = (sin((1 − t) ω)/sin ω) v₁ + (sin(t ω)/sin ω) v₂,   t = w₂/(w₁ + w₂)

with ω the angle between v₁ and v₂: the models' tensors [*s], or their rows; with ``origin="base"``
the differences δ_m = θ_m − θ₀, and the base is added back. Where the weights cancel, t is ½. Where
|sin ω| < 1e-8 the interpolation is linear.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([1.0, 0.0])}, "b": {"w": np.array([0.0, 1.0])}})
>>> Nuslerp(weights={"a": 2.0, "b": 1.0}).merge(pool).tensors["w"].round(3)
array([0.866, 0.5  ])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stages.grams import Spanned, cosines, turned
from plait.method import Card, Law, Need


@dataclass(frozen=True, kw_only=True)
class WeightedArc(Spanned):
    """The place on the arc that the two coefficients say."""

    def weights(self, gram: Array, coefficients: Array) -> Array:
        """Those of the arc, or of the line where there is none."""
        total = coefficients.sum()
        share = 0.5 if abs(total) < 1e-6 else float(coefficients[1] / total)
        cosine = cosines(gram)[..., 0, 1]
        return turned(cosine, share, np.sqrt(1 - cosine**2) < 1e-8)


@dataclass(frozen=True, kw_only=True)
class Nuslerp(Merger):
    """Two models on an arc about ``origin``, each tensor or each row on an arc of its own."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="nuslerp",
        summary="Two models on the arc between them, by tensor or row, about zero or the base.",
        laws=frozenset({Law.PERMUTATION}),
        deviations=("rows only, along the last axis, where mergekit can also take the first",),
        exceptions={
            "translation": "arcs are about zero unless origin is base",
            "stretching": "arcs are about zero unless origin is base",
        },
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"weights": "keys"}
    count: ClassVar[int | None] = 2
    weights: Mapping[str, float] | None = None
    origin: Literal["zero", "base"] = "zero"
    per: Literal["tensor", "row"] = "tensor"

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """About zero and the base, by tensor and by row."""
        return ({}, {"origin": "base"}, {"per": "row"})

    def needs(self) -> frozenset[Need]:
        """A base where it is the origin."""
        return self.card.needs | ({Need.BASE} if self.origin == "base" else set())

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """One combination of weights or task vectors."""
        return Pipeline(
            combine=WeightedArc(per=self.per),
            scale=1.0 if self.weights is None else dict(self.weights),
            against_base=self.origin == "base",
        )
