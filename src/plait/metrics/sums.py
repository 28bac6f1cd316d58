"""Metrics that are functions of weighted sums over rows: one matrix product for all replicates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plait.metrics.base import Floats, ratio

LEAST_RATE = 1e-6  # predicted counts are taken as at least this
LEAST_PROBABILITY = float(np.finfo(np.float32).eps)  # what networks resolve, whatever stores it
BINS = 15  # of equal width, in which probabilities are held against what happened
_ROUNDING = 1e-12  # a variance below this share of the mean square is rounding, not spread


def totals(
    bucket: NDArray[np.intp], buckets: int, rows: NDArray[np.intp], n: int
) -> Callable[[Floats], Floats]:
    """Adds up weights [n, R] to [buckets, R]: row ``rows[i]`` of them into ``bucket[i]``.

    A sparse product reads each row once, in any order, which is several times faster than gathering
    and adding.
    """
    from scipy.sparse import csr_array

    order = np.argsort(bucket, kind="stable")
    edges = np.searchsorted(bucket[order], np.arange(buckets + 1))
    matrix = csr_array((np.ones(len(rows)), rows[order], edges), shape=(buckets, n))

    def add(weights: Floats) -> Floats:
        total: Floats = matrix @ weights
        return total

    return add


def decide(prediction: NDArray[Any]) -> NDArray[np.intp]:
    """The class number of each row: the most probable, or the nearest to a single number.

    A probability of exactly one half is a no.
    """
    best = prediction.argmax(1) if prediction.ndim == 2 else np.ceil(prediction - 0.5)
    return np.maximum(best, 0).astype(np.intp)


def confusion(truth: NDArray[Any], prediction: NDArray[Any]) -> Callable[[Floats], Floats]:
    """[3, C, R]: the weight of each class in the truth, in the decisions, and in both."""
    true, decided = truth.astype(np.intp), decide(prediction)
    classes = int(max(true.max(), decided.max(), 1)) + 1
    n = len(true)
    rows = np.arange(n)
    right = rows[true == decided]
    parts = [
        totals(true, classes, rows, n),
        totals(decided, classes, rows, n),
        totals(true[right], classes, right, n),
    ]
    return lambda weights: np.stack([add(weights) for add in parts])


def accuracy(sums: Floats) -> Floats:
    """Share of rows decided rightly: confusion [3, C, R] → [R]."""
    return ratio(sums[2].sum(0), sums[0].sum(0))


def balanced_accuracy(sums: Floats) -> Floats:
    """Mean over true classes of the share decided rightly: confusion [3, C, R] → [R]."""
    true, _, right = sums
    recall = np.where(true > 0, ratio(right, true), 0.0).sum(0)
    return _several(true, ratio(recall, (true > 0).sum(0).astype(float)))


def f1(sums: Floats) -> Floats:
    """F1 of class 1: confusion [3, 2, R] → [R]."""
    true, decided, right = sums[:, 1]
    return np.where(true > 0, ratio(2 * right, true + decided), np.nan)


def macro_f1(sums: Floats) -> Floats:
    """Mean F1 of the classes that occur or are decided: confusion [3, C, R] → [R]."""
    true, decided, right = sums
    seen = true + decided
    each = np.where(seen > 0, ratio(2 * right, seen), 0.0).sum(0)
    return _several(true, ratio(each, (seen > 0).sum(0).astype(float)))


def mcc(sums: Floats) -> Floats:
    """Matthews correlation of truth and decision: confusion [3, C, R] → [R]."""
    true, decided, right = sums
    total = true.sum(0)
    above = right.sum(0) * total - (true * decided).sum(0)
    spread = (total**2 - (true**2).sum(0)) * (total**2 - (decided**2).sum(0))
    # Always the same decision: nothing is told apart, which by convention is 0.
    one = (decided > 0).sum(0) < 2
    return _several(true, np.where(one, 0.0, ratio(above, np.sqrt(np.maximum(spread, 0)))))


def _several(true: Floats, value: Floats) -> Floats:
    return np.where((true > 0).sum(0) > 1, value, np.nan)


def linear(
    columns: Callable[[NDArray[Any], NDArray[Any]], Sequence[Floats]],
) -> Callable[[NDArray[Any], NDArray[Any]], Callable[[Floats], Floats]]:
    """A summary of plain sums [1 + columns, R]: of weights, then of weighted columns [n]."""

    def summary(truth: NDArray[Any], prediction: NDArray[Any]) -> Callable[[Floats], Floats]:
        table = np.stack([np.ones(len(truth)), *columns(truth, prediction)])
        return lambda weights: table @ weights

    return summary


def mean(column: int) -> Callable[[Floats], Floats]:
    """The weighted mean of a column, counted from 1: sums [1 + columns, R] → [R]."""
    return lambda sums: ratio(sums[column], sums[0])


def surprise(truth: NDArray[Any], prediction: NDArray[Any]) -> list[Floats]:
    """−log of the probability given to what happened: one column [n]."""
    _probabilities(prediction)
    least = LEAST_PROBABILITY
    true = truth.astype(np.intp)
    if prediction.ndim == 2:
        given = prediction[np.arange(len(true)), true].astype(np.float64)
    else:
        positive = prediction.astype(np.float64)
        given = np.where(true == 1, positive, 1 - positive)
    return [-np.log(np.clip(given, least, 1 - least))]


def distance(truth: NDArray[Any], prediction: NDArray[Any]) -> list[Floats]:
    """The squared distance of a probability from what happened: one column [n]."""
    _probabilities(prediction)
    return [np.square(prediction.astype(np.float64) - truth)]


def outcomes(truth: NDArray[Any], prediction: NDArray[Any]) -> list[Floats]:
    """The probability and what happened: two columns [n]."""
    _probabilities(prediction)
    return [prediction.astype(np.float64), truth.astype(np.float64)]


def calibration(sums: Floats) -> Floats:
    """Events predicted for each that happened: sums of :func:`outcomes` [3, R] → [R]."""
    return ratio(sums[1], sums[2])


def bins(
    truth: NDArray[Any], prediction: NDArray[Any]
) -> Callable[[Floats], tuple[Floats, Floats]]:
    """Weights and weighted (probability − what happened), each summed in bins: two of [bins, R].

    A bin holds its upper edge, not its lower.
    """
    _probabilities(prediction)
    given, n = prediction.astype(np.float64), len(truth)
    within = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], given)
    add = totals(within, BINS, np.arange(n), n)
    over = (given - truth)[:, None]
    return lambda weights: (add(weights), add(weights * over))


def ece(sums: tuple[Floats, Floats]) -> Floats:
    """Mean over rows of their bin's |mean probability − share of positives|: of bins [R]."""
    rows, over = sums
    return ratio(np.abs(over).sum(0), rows.sum(0))


def _probabilities(prediction: NDArray[Any]) -> None:
    bad = np.nonzero((prediction < -1e-6) | (prediction > 1 + 1e-6))[0]
    if len(bad):
        raise ValueError(f"prediction at position {bad[0]} is no probability: {prediction[bad[0]]}")


def steps(truth: NDArray[Any], prediction: NDArray[Any]) -> list[Floats]:
    """Squared differences and moments of true and decided class numbers: five columns [n]."""
    true, decided = truth.astype(np.float64), decide(prediction).astype(np.float64)
    return [np.square(true - decided), true, decided, np.square(true), np.square(decided)]


def quadratic_kappa(sums: Floats) -> Floats:
    """Cohen's κ with squared weights: sums of :func:`steps` [6, R] → [R]."""
    total, apart, true, decided, true2, decided2 = sums
    by_chance = total * (true2 + decided2) - 2 * true * decided
    spread = total * true2 - np.square(true)
    kappa = 1 - ratio(total * apart, by_chance)
    return np.where(spread > _ROUNDING * total * true2, kappa, np.nan)


def errors(truth: NDArray[Any], prediction: NDArray[Any]) -> list[Floats]:
    """Squared and absolute errors, and moments of the truth: four columns [n].

    Class probabilities [n, C] stand for the expected class number.
    """
    given = prediction.astype(np.float64)
    if given.ndim == 2:
        given = given @ np.arange(given.shape[1])
    error, true = truth - given, _centred(truth)
    return [np.square(error), np.abs(error), true, np.square(true)]


def rmse(sums: Floats) -> Floats:
    """Root of the mean squared error: sums of :func:`errors` [5, R] → [R]."""
    return np.sqrt(ratio(sums[1], sums[0]))


def r2(sums: Floats) -> Floats:
    """Share of the variance explained: sums of :func:`errors` [5, R] → [R]."""
    total, squared, _, true, true2 = sums
    return 1 - ratio(squared, _spread(total, true, true2))


def products(truth: NDArray[Any], prediction: NDArray[Any]) -> list[Floats]:
    """Moments of truth and prediction, both centred: five columns [n]."""
    true, given = _centred(truth), _centred(prediction)
    return [true, given, np.square(true), np.square(given), true * given]


def pearson(sums: Floats) -> Floats:
    """Linear correlation: sums of :func:`products` [6, R] → [R]."""
    total, true, given, true2, given2, both = sums
    spread = _spread(total, true, true2) * _spread(total, given, given2)
    return np.clip(ratio(both - ratio(true * given, total), np.sqrt(spread)), -1, 1)


def deviance(truth: NDArray[Any], prediction: NDArray[Any]) -> list[Floats]:
    """Twice the log-likelihood lost against a perfect rate: one column [n]."""
    true = truth.astype(np.float64)
    rate = np.maximum(prediction.astype(np.float64), LEAST_RATE)
    logs = true * np.log(np.where(true > 0, true, 1.0) / rate)
    return [2 * (np.where(true > 0, logs, 0.0) - true + rate)]


def _centred(values: NDArray[Any]) -> Floats:
    plain: Floats = values.astype(np.float64)
    plain -= plain.mean()
    return plain


def _spread(total: Floats, first: Floats, second: Floats) -> Floats:
    """Sum of squares about the mean [R], exactly 0 where only rounding is left of it."""
    spread = second - ratio(np.square(first), total)
    return np.where(spread > _ROUNDING * second, spread, 0.0)
