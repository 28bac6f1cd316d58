"""SLERP: two models, interpolated along the arc between them.

    θ = (sin((1 − t) ω)/sin ω) θ₁ + (sin(t ω)/sin ω) θ₂,   ω = the angle between θ₁ and θ₂ [*s]

tensor by tensor, on the weights themselves. Where the angle is too small to matter, |cos ω| above
0.9995, and between opposite tensors the interpolation is linear. t is a number, a list that runs
from the first block of the model to the last (tensors outside blocks take its first), or a list of
``{filter, value}`` of which the first counts whose filter is part of the tensor's name.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([1.0, 0.0])}, "b": {"w": np.array([0.0, 1.0])}})
>>> Slerp(t=1 / 3).merge(pool).tensors["w"].round(3)
array([0.866, 0.5  ])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from plait.merging.base import Have, Merged, Merger, Pipeline
from plait.merging.pipeline import place_groups
from plait.merging.pool import Array, Pool
from plait.merging.settings import numbers, of_site
from plait.merging.stages.grams import Spanned, cosines, turned
from plait.method import Card
from plait.weights.sinks import Sink
from plait.weights.sites import Site

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
    """The model at the share ``t`` of the way from the first model to the second, by tensor."""

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
    t: Any = 0.5

    def __post_init__(self) -> None:
        for share in numbers(self.t):
            if not 0 <= share <= 1:
                raise ValueError(f"t is a share from 0 to 1, not {share:g}")

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """One share, and shares by depth and name."""
        return ({}, {"t": [{"filter": "bias", "value": [0.0, 0.7]}, {"value": 0.2}]})

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:  # noqa: ARG002
        """One combination of the tensors themselves for each share."""
        groups: dict[float, list[Site]] = {}
        for site in pool.sites:
            share = of_site(self.t, site, pool.layers)
            if share is None:
                raise ValueError(f"no filter of t fits {site.name!r}; end with a value")
            groups.setdefault(share, []).append(site)
        lines = [(Pipeline(combine=Arc(t=share), against_base=False), sites)
                 for share, sites in groups.items()]  # fmt: skip
        place_groups(pool, lines, sink, workers)
        return Merged(tensors=sink.tensors)
