"""Multi-SLERP: the mean direction of the models, with their mean norm.

    θ = n̄ · Σ_m w_m u_m / ‖Σ_m w_m u_m‖,   u_m = θ_m/‖θ_m‖,   n̄ = Σ_m w_m ‖θ_m‖,   Σ_m w_m = 1

tensor by tensor on θ_m [*s]; with ``origin="base"`` on the differences θ_m − θ₀, and the base is
added back. The step through the tangent space at the mean direction, by which mergekit defines
the method, moves nothing: the tangents there add up to zero. Where directions cancel, the result
is the weighted mean.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([3.0, 0.0])}, "b": {"w": np.array([0.0, 1.0])}})
>>> Multislerp().merge(pool).tensors["w"].round(3)
array([1.414, 1.414])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stages.grams import Spanned, cosines, norms
from plait.method import Card, Law, Need


@dataclass(frozen=True, kw_only=True)
class MeanDirection(Spanned):
    """The weighted mean of directions, as long as the vectors are on average."""

    def weights(self, gram: Array, coefficients: Array) -> Array:
        """n̄ w_m / (‖θ_m‖ ‖mean direction‖)."""
        share = np.broadcast_to(coefficients / coefficients.sum(), gram.shape[:-1])
        length = norms(gram)
        square = np.einsum("...m,...mn,...n->...", share, cosines(gram), share)[..., None]
        mean = np.sqrt(np.maximum(square, 0))
        cancel = mean < 1e-7
        size = (share * length).sum(-1, keepdims=True)
        turned = share * size / np.where(length > 0, length, 1) / np.where(cancel, 1, mean)
        return np.where(cancel, share, turned)


@dataclass(frozen=True, kw_only=True)
class Multislerp(Merger):
    """Any number of models at their mean direction and mean norm; ``weights`` by model name."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="multislerp",
        summary="The mean direction of the models with their mean norm, about zero or the base.",
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "where more than two directions cancel, the mean; mergekit stops with an error",
        ),
        exceptions={
            "translation": "directions are about zero unless origin is base",
            "stretching": "directions are about zero unless origin is base",
        },
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"weights": "keys"}
    weights: Mapping[str, float] | None = None
    origin: Literal["zero", "base"] = "zero"

    def __post_init__(self) -> None:
        if self.weights and not sum(self.weights.values()) > 0:
            raise ValueError("the weights of multislerp must add up to more than zero")

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """About zero and about the base."""
        return ({}, {"origin": "base"})

    def needs(self) -> frozenset[Need]:
        """A base where it is the origin."""
        return self.card.needs | ({Need.BASE} if self.origin == "base" else set())

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """One combination of weights or task vectors."""
        return Pipeline(
            combine=MeanDirection(),
            scale=1.0 if self.weights is None else dict(self.weights),
            against_base=self.origin == "base",
        )
