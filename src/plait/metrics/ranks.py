"""Metrics that depend on the order of predictions: sorted once, then running sums of weights."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plait.metrics.base import Floats, ratio
from plait.metrics.sums import totals


class Curve(NamedTuple):
    """Weights at the distinct predictions of positive rows, highest first.

    ``positive`` and ``tied`` [G, R] are the positives and negatives with that very prediction,
    ``hits`` the positives predicted as high or higher, ``above`` the negatives predicted higher,
    ``negatives`` [R] all negatives. ``tied`` is None where no negative equals a positive.
    """

    positive: Floats
    hits: Floats
    above: Floats
    tied: Floats | None
    negatives: Floats


def running(sums: Floats) -> Floats:
    """Cumulative sums [n, R] along the first axis, in place.

    Whole rows are added, √n of them between steps: numpy's own ``cumsum`` along this axis is
    several times slower.
    """
    n = len(sums)
    step = max(1, isqrt(n))
    whole = n // step * step
    squares = sums[:whole].reshape(-1, step, *sums.shape[1:])
    for column in range(1, step):
        squares[:, column] += squares[:, column - 1]
    for row in range(1, len(squares)):
        squares[row] += squares[row - 1, -1]
    for row in range(max(whole, 1), n):
        sums[row] += sums[row - 1]
    return sums


def curve(truth: NDArray[Any], prediction: NDArray[Any]) -> Callable[[Floats], Curve]:
    """The weights that every threshold would count, kept only where positives lie."""
    if prediction.ndim != 1:
        raise ValueError("a ranking metric takes one probability a row")
    positive = np.flatnonzero(truth == 1)
    negative = np.flatnonzero(truth != 1)
    levels, level = np.unique(-prediction[positive], return_inverse=True)
    count = len(levels)
    below = -prediction[negative]
    # The first level at or under each negative; those under all positives go to the last bucket.
    at = np.searchsorted(levels, below)
    equal = np.zeros(len(below), bool)
    inside = at < count
    equal[inside] = levels[at[inside]] == below[inside]
    n = len(truth)
    own = totals(level, count, positive, n)
    between = totals(at[~equal], count + 1, negative[~equal], n)
    ties = totals(at[equal], count, negative[equal], n) if equal.any() else None

    def weigh(weights: Floats) -> Curve:
        mine = own(weights)
        above = running(between(weights))
        negatives, above = above[-1].copy(), above[:-1]
        tied = None
        if ties is not None:
            tied = ties(weights)
            level_and_above = running(tied.copy())
            negatives += level_and_above[-1]
            above += level_and_above - tied
        return Curve(mine, running(mine.copy()), above, tied, negatives)

    return weigh


def auroc(found: Curve) -> Floats:
    """Area under the ROC curve, ties counting half. [R]"""
    above = np.einsum("gr,gr->r", found.positive, found.above)
    if found.tied is not None:
        above += np.einsum("gr,gr->r", found.positive, found.tied) / 2
    return 1 - ratio(above, _positives(found) * found.negatives)


def average_precision(found: Curve) -> Floats:
    """Mean over positives of the precision at their own prediction. [R]"""
    taken = found.hits + found.above
    if found.tied is not None:
        taken += found.tied
    # Nothing drawn so far: no positive either, so its precision is never used.
    np.maximum(taken, np.finfo(float).tiny, out=taken)
    precision = np.divide(found.hits, taken, out=taken)
    value = ratio(np.einsum("gr,gr->r", found.positive, precision), _positives(found))
    return np.where(found.negatives > 0, value, np.nan)


def _positives(found: Curve) -> Floats:
    return found.hits[-1] if len(found.hits) else np.zeros_like(found.negatives)


def mid_ranks(truth: NDArray[Any], prediction: NDArray[Any]) -> Callable[[Floats], Floats]:
    """[3, R]: squares of the ranks of truth and of prediction about their means, and products.

    Ranks are those within the replicate, ties sharing their mean; a row of weight w counts as w
    rows, so the mean rank is half the total weight.
    """
    n = len(truth)
    sides = []
    for values in (truth, prediction):
        levels, level = np.unique(values, return_inverse=True)
        sides.append((totals(level, len(levels), np.arange(n), n), level))

    def weigh(weights: Floats) -> Floats:
        squares, ranks = [], []
        for add, level in sides:
            own = add(weights)
            rank = running(own.copy())
            half = rank[-1] / 2
            rank -= own / 2
            rank -= half
            squares.append(np.einsum("gr,gr,gr->r", own, rank, rank))
            ranks.append(rank[level])
        ranks[0] *= ranks[1]
        return np.stack([*squares, np.einsum("nr,nr->r", weights, ranks[0])])

    return weigh


def spearman(sums: Floats) -> Floats:
    """Correlation of the ranks, from the sums [3, R] of :func:`mid_ranks`. [R]"""
    true, given, both = sums
    return np.clip(ratio(both, np.sqrt(true * given)), -1, 1)
