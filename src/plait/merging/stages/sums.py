"""Combining deltas by weighted sums."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from plait.merging.base import Combine, Context
from plait.merging.pool import Array


class Sum(Combine):
    """Σ_m c_m δ_m: deltas [M, *s] and coefficients [M] → [*s]."""

    linear: ClassVar[bool] = True

    def __call__(self, deltas: Array, coefficients: Array, ctx: Context) -> Array:  # noqa: ARG002
        """The weighted sum."""
        summed: Array = np.tensordot(coefficients, deltas, axes=1)
        return summed
