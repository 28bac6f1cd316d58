"""Coefficients that were found before: one for each model at every tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plait.merging.pool import Array
from plait.merging.stage import Coefficients, Context


@dataclass(frozen=True, kw_only=True)
class Given(Coefficients):
    """Coefficients [M] by the name of the tensor."""

    rows: tuple[tuple[str, tuple[float, ...]], ...]

    @classmethod
    def of(cls, names: tuple[str, ...], values: Array) -> Given:
        """Coefficients [L, M] of the named tensors."""
        return cls(
            rows=tuple((n, tuple(row)) for n, row in zip(names, values.tolist(), strict=True))
        )

    def __call__(self, deltas: Array, ctx: Context) -> Array:  # noqa: ARG002
        """The tensor's own."""
        return np.array(next(row for name, row in self.rows if name == ctx.site.name))
