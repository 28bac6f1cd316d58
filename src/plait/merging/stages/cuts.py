"""Exact order statistics of a tensor's or a whole model's magnitudes, out of core.

The k-th smallest of any number of values is found from histograms of their bits: floats that are
not negative sort like the integers that their bits are. Each pass counts the next 16 bits of those
values that agree with what is known, so two passes find a float32 and four a float64 exactly, and
memory holds 65,536 counts for each model. (A sort costs 40 times as much, a partition twice, and
both want all values at once.)
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from plait.merging.pool import Array
from plait.merging.stage import Context, Edit

DIGIT = 16
COUNTS = 1 << DIGIT


@dataclass(frozen=True, kw_only=True)
class Cut(Edit):
    """An edit that needs a threshold for each model, found over its tensor or its ``model``.

    A subclass gives the :meth:`rank` of the threshold; :meth:`thresholds` is then [M].
    """

    per: Literal["model", "tensor"] = "model"

    @abstractmethod
    def rank(self, count: int) -> int:
        """The place of the threshold among ``count`` magnitudes in rising order, from 0."""

    @property
    def whole(self) -> bool:
        """Whether the thresholds are over the whole model."""
        return self.per == "model"

    def passes(self, working: np.dtype[Any]) -> int:
        """Two for float32, four for float64."""
        return 8 * working.itemsize // DIGIT

    def scan(self, values: Array, ctx: Context) -> Array:
        """Counts [M, 65536] of the next digit."""
        known = ctx.found[-1][0] if ctx.found else None
        shift = 8 * values.itemsize - DIGIT * (1 + len(ctx.found))
        counts = np.zeros((len(values), COUNTS), np.int64)
        for number, row in enumerate(values.reshape(len(values), -1)):
            bits = np.abs(row).view(f"u{row.itemsize}")
            if known is not None:
                bits = bits[bits >> (shift + DIGIT) == known[number]]
            digits = (bits >> shift).astype(np.uint16)
            found = np.bincount(digits)
            counts[number, : len(found)] = found
        return counts

    def settle(self, total: Array, found: tuple[Any, ...]) -> tuple[Array, Array]:
        """The bits [M] known so far, and the places [M] that are left below them."""
        if found:
            known, rank = found[-1]
        else:
            known = np.zeros(len(total), np.uint64)
            rank = np.array([self.rank(int(row.sum())) for row in total])
        below = np.cumsum(total, axis=1)
        digit = np.array([np.searchsorted(b, r, "right") for b, r in zip(below, rank, strict=True)])
        passed = np.where(digit > 0, below[np.arange(len(total)), digit - 1], 0)
        return (known << np.uint64(DIGIT)) | digit.astype(np.uint64), rank - passed

    def thresholds(self, ctx: Context, values: Array) -> Array:
        """The magnitudes [M] at the rank, in the type of the values."""
        bits, _ = ctx.found[-1]
        return np.asarray(bits).astype(f"u{values.itemsize}").view(values.dtype)


@dataclass(frozen=True, kw_only=True)
class Trim(Cut):
    """Keep the share ``keep`` of each model's largest magnitudes, and set the others to zero.

    What is as large as the smallest one kept is kept too.
    """

    keep: float

    def rank(self, count: int) -> int:
        """The first place that is kept, with one before it: ``count − ⌊count·keep⌋ − 1``."""
        return max(count - int(count * self.keep) - 1, 0)

    def __call__(self, deltas: Array, ctx: Context) -> Array:
        """Zero what lies below the thresholds."""
        for row, least in zip(deltas, self.thresholds(ctx, deltas), strict=True):
            row *= np.abs(row) >= least
        return deltas
