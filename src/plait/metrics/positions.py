"""Metrics of tasks that label positions inside a row: read off the tallies of the rows.

A tally [n, K] (see :mod:`plait.kinds`) stands where other metrics have predictions; its sums over
rows, weighted, are all that these need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plait.kinds.pixels import BINS, THRESHOLDS
from plait.metrics import sums
from plait.metrics.base import Floats, ratio

AHEAD = 2  # the number of positions and their loss stand before what the metrics read


def tallies(truth: NDArray[Any], prediction: NDArray[Any]) -> Callable[[Floats], Floats]:  # noqa: ARG001
    """Weighted sums of the rows' tallies: weights [n, R] → [K, R]."""
    return lambda weights: prediction.T @ weights


def of_classes(value: Callable[[Floats], Floats], behind: int) -> Callable[[Floats], Floats]:
    """A metric of a confusion [3, C, R] where it stands in a tally with ``behind`` more columns."""

    def read(found: Floats) -> Floats:
        inner = found[AHEAD : len(found) - behind]
        return value(inner.reshape(3, -1, inner.shape[1]))

    return read


token_accuracy = of_classes(sums.accuracy, 3)
token_macro_f1 = of_classes(sums.macro_f1, 3)


def span_f1(found: Floats) -> Floats:
    """Harmonic mean of precision and recall of whole spans: tallies [K, R] → [R]."""
    true, decided, right = found[-3:]
    return np.where(true > 0, ratio(2 * right, true + decided), np.nan)


pixel_accuracy = of_classes(sums.accuracy, 0)


def _overlap(found: Floats) -> Floats:
    true, decided, right = found
    union = true + decided - right
    each = np.where(union > 0, ratio(right, union), 0.0).sum(0)
    return ratio(each, (union > 0).sum(0).astype(float))


miou = of_classes(_overlap, 0)


def mean(column: int) -> Callable[[Floats], Floats]:
    """The mean over positions of what a column of the tally adds up: tallies [K, R] → [R]."""
    return lambda found: ratio(found[column], found[0])


def root(column: int) -> Callable[[Floats], Floats]:
    """The root of that mean."""
    return lambda found: np.sqrt(ratio(found[column], found[0]))


def median_angle(found: Floats) -> Floats:
    """The median of angles told by a histogram, straight between the edges of a bin. [R]"""
    bins = found[-BINS:]
    below = np.cumsum(bins, axis=0)
    half = below[-1] / 2
    at = (below < half).sum(0)  # the bin that holds the middle
    column = np.arange(bins.shape[1])
    inside = bins[np.minimum(at, BINS - 1), column]
    before = below[np.minimum(at, BINS - 1), column] - inside
    return np.where(half > 0, (at + ratio(half - before, inside)) * (180 / BINS), np.nan)


def boundary_f(found: Floats) -> Floats:
    """The best harmonic mean of precision and recall over thresholds: tallies [K, R] → [R]."""
    near, decided, met, true = found[AHEAD:].reshape(len(THRESHOLDS), 4, -1).swapaxes(0, 1)
    precision = np.where(decided > 0, ratio(near, decided), 0.0)
    recall = ratio(met, true)
    both = precision + recall
    value = np.where(both > 0, ratio(2 * precision * recall, both), 0.0).max(0)
    return np.where(true[0] > 0, value, np.nan)
