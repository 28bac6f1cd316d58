"""Metrics within groups of rows, such as those of one user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plait.metrics.base import Floats, ratio
from plait.metrics.ranks import running
from plait.metrics.sums import totals


def mixed(
    truth: NDArray[Any], group: NDArray[Any], weight: NDArray[Any] | None = None
) -> tuple[NDArray[np.bool_], int, int]:
    """The rows of groups that hold both classes [n]; how many such groups, and groups, there are.

    Groups below 0 are nobody's. Rows without weight are as if they were not there.
    """
    there = group >= 0
    if weight is not None:
        there = there & (weight > 0)
    names, member = np.unique(group[there], return_inverse=True)
    positive = np.bincount(member, truth[there] == 1, len(names))
    both = (positive > 0) & (positive < np.bincount(member, minlength=len(names)))
    kept = np.zeros(len(truth), bool)
    kept[there] = both[member]
    return kept, int(both.sum()), len(names)


def pairs(
    truth: NDArray[Any], prediction: NDArray[Any], group: NDArray[Any]
) -> Callable[[Floats], Floats]:
    """[2, R]: Σ impressions · AUC, and Σ impressions, over the groups with both classes.

    Rows lie by group and prediction, so that a running sum of negatives, less what it was where the
    group began, counts those below a positive.
    """
    if prediction.ndim != 1:
        raise ValueError("a ranking metric takes one probability a row")
    rows = np.flatnonzero(mixed(truth, group)[0])
    rows = rows[np.lexsort((prediction[rows], group[rows]))]
    first = np.ones(len(rows), bool)  # of a group
    first[1:] = group[rows][1:] != group[rows][:-1]
    fresh = first.copy()  # of a level: equal predictions within a group
    fresh[1:] |= prediction[rows][1:] != prediction[rows][:-1]
    level, n = np.cumsum(fresh) - 1, len(truth)
    of_level = (np.cumsum(first) - 1)[fresh]
    starts = np.flatnonzero(first[fresh])
    levels, groups = len(of_level), len(starts)
    positive = truth[rows] == 1
    add = [totals(level[is_], levels, rows[is_], n) for is_ in (positive, ~positive)]
    gather = totals(of_level, groups, np.arange(levels), levels)

    def weigh(weights: Floats) -> Floats:
        if not groups:
            return np.zeros((2, weights.shape[1]))
        mine, against = (each(weights) for each in add)
        hits, misses = gather(mine), gather(against)
        below = running(against.copy())
        below -= against / 2
        below -= np.concatenate([np.zeros_like(misses[:1]), np.cumsum(misses, 0)[:-1]])[of_level]
        auc = ratio(gather(mine * below), hits * misses)
        counts = (hits > 0) & (misses > 0)
        seen = np.where(counts, hits + misses, 0.0)
        return np.stack([np.where(counts, seen * auc, 0.0).sum(0), seen.sum(0)])

    return weigh


def gauc(sums: Floats) -> Floats:
    """AUC by group, weighted by impressions: sums [2, R] of :func:`pairs` → [R]."""
    return ratio(sums[0], sums[1])
