"""Edits that keep a share of its own of each model's task vector, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from plait.merging.pool import Array
from plait.merging.stage import Context, Edit, Finish
from plait.merging.stages.cuts import Cut
from plait.merging.stages.drops import STEPS

LEAST = 1e-7  # a sum of magnitudes below this is not scaled to


@dataclass(frozen=True, kw_only=True)
class Largest(Cut):
    """Keep the ⌊size·keep⌋ largest magnitudes of each model's tensor, one at least.

    ``keeps`` are the shares by model. What is as large as the smallest one kept is kept too.
    """

    per: Literal["model", "tensor"] = "tensor"
    keeps: tuple[float, ...]

    def __post_init__(self) -> None:
        _check(self.keeps)

    def rank(self, count: int) -> int:
        """The first place that is kept of a model of the largest share."""
        return count - max(int(count * min(max(self.keeps), 1.0)), 1)

    def ranks(self, counts: Array) -> Array:
        """The first place that is kept, for each model."""
        kept = (counts * np.minimum(self.keeps, 1.0)).astype(int)
        return np.asarray(counts - np.maximum(kept, 1))

    def __call__(self, deltas: Array, ctx: Context) -> Array:
        """Zero what lies below the thresholds."""
        for row, least in zip(deltas, self.thresholds(ctx, deltas), strict=True):
            np.multiply(row, np.abs(row) >= least, out=row)
        return deltas


@dataclass(frozen=True, kw_only=True)
class Thin(Edit):
    """Keep entries at random at each model's rate; scaled so that Σ|δ| stays with ``rescale``."""

    keeps: tuple[float, ...]
    rescale: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.keeps)

    def passes(self, working: np.dtype[Any]) -> int:  # noqa: ARG002
        """One where sums are to stay."""
        return 1 if self.rescale else 0

    def scan(self, values: Array, ctx: Context) -> Array:
        """Σ|δ| of every model before and after [2, M]."""
        after = [
            np.abs(row[self._mask(row, m, ctx)]).sum(dtype=float) for m, row in enumerate(values)
        ]
        before = [np.abs(row).sum(dtype=float) for row in values]
        return np.array([before, after])

    def settle(self, total: Array, found: tuple[Any, ...]) -> Array:  # noqa: ARG002
        """The factors [M]."""
        before, after = total
        usable = np.minimum(before, after) >= LEAST
        factors: Array = np.divide(before, after, out=np.ones_like(before), where=usable)
        return factors

    def __call__(self, deltas: Array, ctx: Context) -> Array:
        """Drop, and scale what is left."""
        factors = ctx.findings[self][0] if self.rescale else np.ones(len(deltas))
        for number, (row, factor) in enumerate(zip(deltas, factors, strict=True)):
            if self.keeps[number] < 1:
                row *= self._mask(row, number, ctx)
                row *= deltas.dtype.type(factor)
        return deltas

    def _mask(self, row: Array, model: int, ctx: Context) -> Array:
        numbers = ctx.draws(self.seed, ctx.models[model]).integers(ctx.start, ctx.start + row.size)
        return np.asarray(numbers < round(self.keeps[model] * STEPS)).reshape(row.shape)


@dataclass(frozen=True, kw_only=True)
class Times(Finish):
    """Multiply the combined delta by a factor."""

    factor: float

    def __call__(self, delta: Array, ctx: Context) -> Array:  # noqa: ARG002
        """Scale."""
        delta *= delta.dtype.type(self.factor)
        return delta


def _check(keeps: tuple[float, ...]) -> None:
    for keep in keeps:
        if not keep > 0:
            raise ValueError(f"a density is a share above 0, not {keep:g}")
