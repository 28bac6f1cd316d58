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
UNSIGNED = np.uint16(0x7FFF)  # a first digit without the sign


@dataclass(frozen=True, kw_only=True)
class Cut(Edit):
    """An edit that needs a threshold for each model, found over its tensor or its ``model``.

    A subclass gives the :meth:`rank` of the threshold; :meth:`thresholds` is then [M].
    """

    per: Literal["model", "tensor"] = "model"

    @abstractmethod
    def rank(self, count: int) -> int:
        """The place of the threshold among ``count`` magnitudes in rising order, from 0."""

    def ranks(self, counts: Array) -> Array:
        """The places of all thresholds, from the numbers of magnitudes [M]."""
        return np.array([self.rank(int(count)) for count in counts])

    @property
    def whole(self) -> bool:
        """Whether the thresholds are over the whole model."""
        return self.per == "model"

    def passes(self, working: np.dtype[Any]) -> int:
        """Two for float32, four for float64."""
        return 8 * working.itemsize // DIGIT

    def scan(self, values: Array, ctx: Context) -> Array:
        """Counts [M, 65536] of the next digit, the first of the most significant."""
        digits = values.reshape(len(values), -1).view(np.uint16)
        digits = digits.reshape(len(values), -1, values.itemsize // 2)[..., ::-1]  # little-endian
        level = len(ctx.found)
        counts = np.zeros((len(values), COUNTS), np.int64)
        for number, row in enumerate(digits):
            one = row[:, level] if level else row[:, 0] & UNSIGNED
            if level:
                known, _ = ctx.found[-1]
                agree = (row[:, 0] & UNSIGNED) == known[number, 0]
                for before in range(1, level):
                    agree &= row[:, before] == known[number, before]
                one = one[agree]
            found = np.bincount(one)
            counts[number, : len(found)] = found
        return counts

    def settle(self, total: Array, found: tuple[Any, ...]) -> tuple[Array, Array]:
        """The digits [M, k] known so far, and the places [M] that are left below them."""
        known = found[-1][0] if found else np.empty((len(total), 0), np.uint16)
        rank = found[-1][1] if found else self.ranks(total.sum(1))
        below = np.cumsum(total, axis=1)
        digit = np.array([np.searchsorted(b, r, "right") for b, r in zip(below, rank, strict=True)])
        passed = np.where(digit > 0, below[np.arange(len(total)), digit - 1], 0)
        return np.column_stack([known, digit.astype(np.uint16)]), rank - passed

    def thresholds(self, ctx: Context, values: Array) -> Array:
        """The magnitudes [M] at the rank, in the type of the values."""
        digits, _ = ctx.findings[self][-1]
        return np.ascontiguousarray(digits[:, ::-1]).view(values.dtype)[:, 0]


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
            np.multiply(row, np.abs(row) >= least, out=row)
        return deltas
