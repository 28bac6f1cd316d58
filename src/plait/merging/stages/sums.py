"""Combining deltas by weighted sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plait.merging.pool import Array
from plait.merging.stage import Combine, Context


@dataclass(frozen=True, kw_only=True)
class Sum(Combine):
    """Σ_m c_m δ_m / ``over``: deltas [M, *s] and coefficients [M] → [*s], added in order."""

    over: float = 1.0

    @property
    def linear(self) -> bool:
        """It is."""
        return True

    def __call__(self, deltas: Array, coefficients: Array, ctx: Context) -> Array:  # noqa: ARG002
        """The weighted sum."""
        weigh(deltas, coefficients)
        summed = added(deltas, into=deltas[0])
        if self.over != 1:
            summed /= deltas.dtype.type(self.over)
        return summed


def weigh(deltas: Array, coefficients: Array) -> None:
    """Multiply each model's delta [M, *s] by its coefficient [M], in place."""
    if (coefficients != 1).any():
        deltas *= coefficients.reshape(-1, *[1] * (deltas.ndim - 1))


def added(deltas: Array, into: Array | None = None) -> Array:
    """Σ_m δ_m of [M, *s], the models added one after another; ``into`` may be the first's array."""
    total = deltas[0].copy() if into is None else into
    for row in deltas[1:]:
        total += row
    return np.asarray(total)
