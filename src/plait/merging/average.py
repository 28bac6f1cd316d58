"""The mean of the models' weights.

    θ = Σ_m w_m θ_m / Σ_m w_m

with θ_m [*s] the tensor of model m at a site and w_m its weight, 1 unless given. Integer tensors
are copied from the base, or from the first model where there is none.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([1.0, 2.0])}, "b": {"w": np.array([3.0, 6.0])}})
>>> Average().merge(pool).tensors["w"]
array([2., 4.])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Pool
from plait.merging.stages.sums import Sum
from plait.method import Card, Law


@dataclass(frozen=True, kw_only=True)
class Average(Merger):
    """The plain or weighted mean; ``weights`` by model name need not sum to one."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="average",
        summary="The mean of the models' weights, plain or weighted.",
        laws=frozenset({Law.PERMUTATION}),
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"weights": "keys"}
    weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        given = list((self.weights or {}).values())
        if given and (min(given) < 0 or sum(given) <= 0):
            raise ValueError("the weights of an average must be positive or zero, not all zero")

    def pipeline(self, pool: Pool) -> Pipeline:
        """The weighted sum of the tensors themselves, without a base, over the sum of weights."""
        weights = dict(self.weights or dict.fromkeys(pool.names, 1.0))
        return Pipeline(combine=Sum(over=sum(weights.values())), scale=weights, against_base=False)
