"""Score fusion: two rankers answer as one, by a convex sum of normalised scores or by ranks.

    f(q, d) = α φ(s₁(q, d)) + (1 − α) φ(s₂(q, d))          r(q, d) = Σ_m 1 / (η + rank_m(q, d))

with φ per query one of ``minmax`` (s − min)/(max − min), ``theoretical`` (s − m)/(max − m) with m
the least score that the ranker can give (BM25: 0, cosine: −1), and ``zscore`` (s − mean)/std. Where
all scores of a query are equal φ is 0. Scores are [queries, candidates], NaN where a ranker did not
find the candidate: its φ is then that of the lowest score found (possible, with ``theoretical``),
its term of r is left out. What neither found is NaN. After "An Analysis of Fusion Functions for
Hybrid Retrieval" (Bruch, Gai and Ingber, 2023), which finds the convex sum better than ranks and
robust to φ, with α fitted on few labelled queries. Nothing but the scores is stored or run.

>>> import numpy as np
>>> meaning, words = np.array([[0.9, 0.1, 0.5]]), np.array([[3.0, 12.0, np.nan]])
>>> convex(meaning, words, 0.5).round(2)
array([[0.5 , 0.5 , 0.25]])
>>> order(reciprocal(meaning, words))
array([[0, 1, 2]])
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Way = Literal["minmax", "theoretical", "zscore"]
WAYS = ("minmax", "theoretical", "zscore")
SHARES = tuple(number / 20 for number in range(21))


def convex(
    one: Array,
    two: Array,
    share: float,
    *,
    way: Way = "minmax",
    least: tuple[float, float] = (0.0, 0.0),
) -> Array:
    """α φ(one) + (1 − α) φ(two), α being ``share``. [queries, candidates]

    ``least`` are the rankers' least scores, for ``theoretical``. Raises ``ValueError`` for scores
    of two shapes or below their least, a share outside [0, 1] and an unknown way.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share:g}")
    _check(one, two)
    first, second = (normalised(s, way, m) for s, m in zip((one, two), least, strict=True))
    fused: Array = share * first + (1 - share) * second
    fused[np.isnan(one) & np.isnan(two)] = np.nan
    return fused


def normalised(scores: Array, way: Way, least: float = 0.0) -> Array:
    """φ of every query's scores; of what was not found, that of the lowest."""
    if way not in WAYS:
        raise ValueError(f"no way {way!r} to normalise; valid: {', '.join(WAYS)}")
    scores = np.asarray(scores, np.float64)
    if way == "theoretical" and (scores < least).any():
        raise ValueError(f"a score lies below {least:g}, the least that its ranker is said to give")
    with warnings.catch_warnings():  # a query for which nothing was found
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = (f(scores, 1, keepdims=True) for f in (np.nanmin, np.nanmax))
        if way == "zscore":
            start, width = np.nanmean(scores, 1, keepdims=True), np.nanstd(scores, 1, keepdims=True)
        else:
            start = low if way == "minmax" else np.full_like(low, least)
            width = high - start
    missing = np.broadcast_to(
        np.full_like(low, least) if way == "theoretical" else low, scores.shape
    )
    filled = np.where(np.isnan(scores), missing, scores)
    flat = (high == low) & (way != "theoretical") | ~(width > 0)
    found: Array = np.where(flat, 0.0, (filled - start) / np.where(flat, 1.0, width))
    return found


def reciprocal(*scores: Array, smooth: float = 60.0) -> Array:
    """Σ_m 1/(η + rank_m), η being ``smooth``; ranks from 1, of equal scores in order. [q, n]"""
    _check(*scores)
    if smooth < 0:
        raise ValueError(f"smooth must be at least 0, got {smooth:g}")
    total = np.zeros(scores[0].shape)
    for each in scores:
        ranks = np.argsort(order(each), 1, kind="stable") + 1
        total += np.where(np.isnan(each), 0.0, 1 / (smooth + ranks))
    found: Array = np.where(np.all(np.isnan(scores), 0), np.nan, total)
    return found


def order(scores: Array) -> Array:
    """The candidates of every query, best first; equal ones as they stand, unfound ones last."""
    return np.argsort(np.where(np.isnan(scores), np.inf, -scores), 1, kind="stable")


def fitted(
    one: Array,
    two: Array,
    relevant: Array,
    *,
    way: Way = "minmax",
    least: tuple[float, float] = (0.0, 0.0),
    metric: Callable[[Array, Array], float] | None = None,
    shares: Sequence[float] = SHARES,
) -> float:
    """The share of the best mean metric on labelled queries; the middle one of those equally good.

    ``relevant`` [queries, candidates] grades the candidates; ``metric`` takes fused scores and
    grades, and is nDCG at 10 unless given. Raises ``ValueError`` where nothing is relevant.
    """
    _check(one, two, relevant)
    if not np.any(np.asarray(relevant) > 0):
        raise ValueError("no candidate is relevant to any query; label some")
    judge = ndcg if metric is None else metric
    found = [judge(convex(one, two, share, way=way, least=least), relevant) for share in shares]
    best = [share for share, value in zip(shares, found, strict=True) if value >= max(found)]
    return best[(len(best) - 1) // 2]


def ndcg(scores: Array, relevant: Array, at: int = 10) -> float:
    """The mean over queries with something relevant of Σ gain/log₂(1 + rank) over its largest."""
    gains = np.asarray(relevant, np.float64)
    discounts = 1 / np.log2(np.arange(2, min(at, gains.shape[1]) + 2))
    reached = np.take_along_axis(gains, order(scores), 1)[:, : len(discounts)] @ discounts
    most = -np.sort(-gains, 1)[:, : len(discounts)] @ discounts
    return float((reached[most > 0] / most[most > 0]).mean())


def _check(*arrays: Array) -> None:
    shapes = [np.shape(each) for each in arrays]
    if not shapes or len(set(shapes)) > 1 or len(shapes[0]) != 2:
        told = ", ".join(map(str, shapes))
        raise ValueError(f"scores are [queries, candidates] of one shape for all, got {told}")
