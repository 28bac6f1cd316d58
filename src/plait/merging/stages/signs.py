"""Electing a sign for every entry, and combining only the models that agree with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from plait.merging.pool import Array
from plait.merging.stage import Combine, Context, Edit
from plait.merging.stages.sums import added, weigh


@dataclass(frozen=True, kw_only=True)
class Agreeing(Combine):
    """Σ_m c_m δ_m over the models whose sign is the elected one, divided by what ``over`` says.

        s = sgn(Σ_m c_m δ_m),   δ = Σ_m a_m c_m δ_m / d,   a_m = 1[sgn(c_m δ_m) = s]

    entry by entry, with d = Σ_m a_m over the ``count``, Σ_m a_m c_m over the ``weights`` and 1 over
    ``nothing``; where nothing agrees the delta is zero. Where models cancel to exactly zero, s is
    the ``majority`` of the whole model's signs (which takes a pass), or ``plus``. With ``equal``
    votes the sign is that of Σ_m δ_m.
    """

    over: Literal["count", "weights", "nothing"] = "count"
    zero: Literal["majority", "plus"] = "majority"
    votes: Literal["weighted", "equal"] = "weighted"

    @property
    def linear(self) -> bool:
        """Unless the weights are divided out again."""
        return self.over != "weights"

    @property
    def whole(self) -> bool:
        """The majority is that of the whole model."""
        return True

    def passes(self, working: np.dtype[Any]) -> int:  # noqa: ARG002
        """One where the majority is asked for."""
        return 1 if self.zero == "majority" else 0

    def scan(self, values: Array, ctx: Context) -> Array:
        """How many more signs are positive than negative."""
        return majority(self._election(values, ctx.coefficients))

    def __call__(self, deltas: Array, coefficients: Array, ctx: Context) -> Array:
        """Elect, and combine those that agree."""
        total = self._election(deltas, coefficients)
        sign = np.sign(total)
        sign[total == 0] = np.sign(ctx.found[0][0]) if ctx.found else 1
        total[...] = 0
        counted = np.min_scalar_type(len(deltas)) if self.over == "count" else total.dtype
        share = np.zeros(total.shape, counted)
        for row, weight in zip(deltas, coefficients, strict=True):
            row *= sign
            np.maximum(row, 0, out=row)
            total += row
            if self.over == "count":
                share += (row > 0).view(np.uint8)
            elif self.over == "weights":
                share += weight * (row > 0)
        if self.over != "nothing":
            np.divide(total, share, out=total, where=share != 0)
        total *= sign
        return total

    def _election(self, deltas: Array, coefficients: Array) -> Array:
        """The sum that decides; the deltas are weighed on the way."""
        if self.votes == "equal":
            total = added(deltas)
            weigh(deltas, coefficients)
            return total
        weigh(deltas, coefficients)
        return added(deltas)


@dataclass(frozen=True, kw_only=True)
class Elected(Edit):
    """Set to zero what differs in sign from Σ_m δ_m, entry by entry; the others stay as they are.

    Where models cancel to exactly zero, the sign is the majority of the whole model's.
    """

    @property
    def whole(self) -> bool:
        """The majority is that of the whole model."""
        return True

    def passes(self, working: np.dtype[Any]) -> int:  # noqa: ARG002
        """One for the majority."""
        return 1

    def scan(self, values: Array, ctx: Context) -> Array:  # noqa: ARG002
        """How many more signs are positive than negative."""
        return majority(added(values))

    def __call__(self, deltas: Array, ctx: Context) -> Array:
        """Keep what agrees."""
        sign = np.sign(added(deltas))
        sign[sign == 0] = np.sign(ctx.found[0][0])
        for row in deltas:
            row *= row * sign > 0
        return deltas


def majority(total: Array) -> Array:
    """How many more values are positive than negative. [1]"""
    return np.array([np.count_nonzero(total > 0) - np.count_nonzero(total < 0)])
