"""Edits that keep a share of its own of each model's task vector, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.pool import Array
from plait.merging.stage import Context, Edit, Finish, Grain
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
class End(Cut):
    """One end of a middle: with N values, ⌊N·keep⌋ are kept below the ⌊N·outliers⌋ largest.

    Where fewer lie below those than are to be kept, fewer count as outliers. ``upper`` zeroes the
    outliers, else what lies below the kept; the lower end comes first. Values equal to one that is
    dropped at the upper end are dropped too, those equal to one kept at the lower end kept.
    """

    per: Literal["model", "tensor"] = "tensor"
    keeps: tuple[float, ...]
    outliers: tuple[float, ...]
    upper: bool

    def __post_init__(self) -> None:
        _check(self.keeps)

    def rank(self, count: int) -> int:
        """The place of the first model's threshold."""
        return int(self._place(np.array([count]))[0])

    def ranks(self, counts: Array) -> Array:
        """The places of the thresholds; the last one where nothing lies above."""
        return np.asarray(np.minimum(self._place(counts), counts - 1))

    def __call__(self, deltas: Array, ctx: Context) -> Array:
        """Zero what lies beyond the thresholds."""
        sizes = np.full(len(deltas), ctx.site.size)
        beyond = self._place(sizes) >= sizes
        for number, (row, cut) in enumerate(zip(deltas, self.thresholds(ctx, deltas), strict=True)):
            if self.keeps[number] < 1 and not (self.upper and beyond[number]):
                inside = np.abs(row) < cut if self.upper else np.abs(row) >= cut
                np.multiply(row, inside, out=row)
        return deltas

    def _place(self, counts: Array) -> Array:
        kept = (counts * np.minimum(self.keeps, 1.0)[: len(counts)]).astype(int)
        above = (counts * np.array(self.outliers)[: len(counts)]).astype(int)
        start = np.maximum(counts - kept - above, 0)
        return np.asarray(start + kept if self.upper else start)


@dataclass(frozen=True, kw_only=True)
class Thin(Edit):
    """Keep entries at random at each model's rate."""

    keeps: tuple[float, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.keeps)

    def __call__(self, deltas: Array, ctx: Context) -> Array:
        """Drop."""
        for name, keep, row in zip(ctx.models, self.keeps, deltas, strict=True):
            if keep < 1:
                numbers = ctx.draws(self.seed, name).integers(ctx.start, ctx.start + row.size)
                row *= (numbers < round(keep * STEPS)).reshape(row.shape)
        return deltas


@dataclass(frozen=True, kw_only=True)
class ThinByRank(Edit):
    """Keep entries at random, at rates that rise evenly with the rank of a magnitude in its row.

    They run from keep − window to keep + window, which must lie in (0, 1).
    """

    grain: ClassVar[Grain] = Grain.ROW
    keeps: tuple[float, ...]
    windows: tuple[float, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.keeps)
        for keep, window in zip(self.keeps, self.windows, strict=True):
            if keep < 1 and not (keep > window and keep + window < 1):
                raise ValueError(
                    f"density ± epsilon must lie between 0 and 1; got {keep:g} ± {window:g}"
                )

    def __call__(self, deltas: Array, ctx: Context) -> Array:
        """Drop [M, rows, d]."""
        width = deltas.shape[-1]
        rise = np.linspace(-1.0, 1.0, width) if width > 1 else np.zeros(1)
        for number, (name, rows) in enumerate(zip(ctx.models, deltas, strict=True)):
            if self.keeps[number] >= 1:
                continue
            steps = np.round((self.keeps[number] + self.windows[number] * rise) * STEPS)
            order = np.argsort(np.abs(rows), axis=-1, kind="stable")
            rates = np.empty(rows.shape)
            np.put_along_axis(rates, order, np.broadcast_to(steps, rows.shape), axis=-1)
            drawn = ctx.draws(self.seed, name).integers(ctx.start, ctx.start + rows.size)
            rows *= drawn.reshape(rows.shape) < rates
        return deltas


@dataclass(frozen=True, kw_only=True)
class SumsKept(Edit):
    """Scale each model's tensor so that Σ|δ| is what it was before any edit."""

    looks_back: ClassVar[bool] = True

    def passes(self, working: np.dtype[Any]) -> int:  # noqa: ARG002
        """One, for the sums."""
        return 1

    def scan(self, values: Array, ctx: Context) -> Array:
        """Σ|δ| of every model before and after [2, M]."""
        both = (np.asarray(ctx.original), values)
        return np.array([[np.abs(row).sum(dtype=float) for row in some] for some in both])

    def settle(self, total: Array, found: tuple[Any, ...]) -> Array:  # noqa: ARG002
        """The factors [M]."""
        before, after = total
        usable = np.minimum(before, after) >= LEAST
        factors: Array = np.divide(before, after, out=np.ones_like(before), where=usable)
        return factors

    def __call__(self, deltas: Array, ctx: Context) -> Array:
        """Scale what is left."""
        for row, factor in zip(deltas, ctx.findings[self][0], strict=True):
            row *= deltas.dtype.type(factor)
        return deltas


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
