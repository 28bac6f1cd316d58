"""Karcher mean: the point on the sphere nearest to all models' directions, with their mean norm.

    θ = n̄ u,   u = argmin Σ_m ω(u, u_m)²,   u_m = θ_m/‖θ_m‖,   n̄ = Σ_m ‖θ_m‖/M

tensor by tensor on the weights θ_m [*s], ω being the angle. u is found from the normalised mean by
steps u ← exp_u(mean_m log_u u_m), with log_u v = (ω/sin ω)(v − cos ω · u), until the step is
shorter than ``tolerance``. Tensors of zeros have no direction and count in the norm alone; a
direction opposite to u shows no way there and does not move it.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([3.0, 0.0])}, "b": {"w": np.array([0.0, 1.0])}})
>>> Karcher().merge(pool).tensors["w"].round(3)
array([1.414, 1.414])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stages.grams import Spanned, cosines, norms
from plait.method import Card, Law


@dataclass(frozen=True, kw_only=True)
class OnSphere(Spanned):
    """The Karcher mean; a point of the span is its weights on the directions."""

    steps: int
    tolerance: float

    def weights(self, gram: Array, coefficients: Array) -> Array:  # noqa: ARG002
        """n̄ times the mean's weights, over the norms."""
        return np.stack([self._weights(one) for one in gram])

    def _weights(self, gram: Array) -> Array:
        length = norms(gram)
        there = length > 0
        found = np.zeros(len(gram))
        if there.any():
            mean = self._mean(cosines(gram[np.ix_(there, there)]))
            found[there] = length.mean() * mean / length[there]
        return found

    def _mean(self, cosine: Array) -> Array:
        """The weights [M] of the mean of directions with these cosines [M, M]."""

        def size(weights: Array) -> float:
            return float(np.sqrt(np.maximum(weights @ cosine @ weights, 0)))

        count = len(cosine)
        mean = np.full(count, 1 / count)
        if size(mean) < self.tolerance:  # directions that cancel: start at the first
            mean = np.eye(count)[0]
        mean = mean / size(mean)
        for _ in range(self.steps):
            toward = np.clip(cosine @ mean, -1, 1)
            angle = np.arccos(toward)
            still = np.sin(angle) < self.tolerance
            step = np.where(still, 0, angle / np.where(still, 1, np.sin(angle))) / count
            tangent = step - (step @ toward) * mean
            length = size(tangent)
            if length < self.tolerance:
                break
            mean = np.cos(length) * mean + np.sin(length) / length * tangent
            mean = mean / size(mean)
        return mean


@dataclass(frozen=True, kw_only=True)
class Karcher(Merger):
    """The mean on the sphere, in at most ``steps`` steps."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="karcher",
        summary="The mean of the models' directions on the sphere, with their mean norm.",
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "directions are combined in float64 and a direction opposite to the mean is left out",
        ),
        exceptions={
            "translation": "the sphere is about zero, not about the base",
            "stretching": "the sphere is about zero, not about the base",
        },
    )
    steps: int = 10
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if self.steps < 0 or self.tolerance <= 0:
            raise ValueError("karcher takes steps from 0 and a tolerance above 0")

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """One combination of the tensors themselves."""
        combine = OnSphere(steps=self.steps, tolerance=self.tolerance)
        return Pipeline(combine=combine, against_base=False)
