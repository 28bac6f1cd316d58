"""What a metric is: a summary of weighted rows, and the value read off it.

The summary of (truth, prediction) is prepared once: rows are sorted, errors are taken. It then
meets weights [n, R], one column for each bootstrap replicate, and all R values come out together,
without resampling a row. The plain score is the replicate in which every row is drawn once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Summary = Callable[..., Callable[[Floats], Any]]

BLOCK = 2**18  # weights taken at a time: few enough to stay in cache and out of fresh memory
ATLEAST = 32  # replicates taken at a time where rows are many; fewer only to bound memory
MOST = 2**22


@dataclass(frozen=True)
class Undefined:
    """A metric without a value, and why; it is neither 0 nor NaN, and no mean takes it in."""

    reason: str

    def __str__(self) -> str:
        return f"undefined: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure of merit for some kinds of task.

    ``words`` defines it in one sentence, ``undefined`` says when it has no value. ``summary`` maps
    (truth [n], prediction [n] or [n, C]) to a function of weights [n, R], ``value`` what that
    returns to [R], NaN where undefined. Metrics with the same summary share its work. ``grouped``:
    it also takes the rows' groups [n]. ``higher`` None: best at 1, so that nothing is ranked by it.
    """

    name: str
    higher: bool | None
    kinds: frozenset[str]
    words: str
    undefined: str
    summary: Summary
    value: Callable[[Any], Floats]
    grouped: bool = False

    def score(
        self,
        truth: ArrayLike,
        prediction: ArrayLike,
        weight: ArrayLike | None = None,
        group: ArrayLike | None = None,
    ) -> float | Undefined:
        """The metric on all rows, each counted with its weight; see :func:`replicates`."""
        truth = np.asarray(truth)
        once = np.ones((1, len(truth)), np.uint8)
        value = float(self.replicates(truth, prediction, once, weight, group)[0])
        if np.isfinite(value):
            return value
        empty = len(truth) == 0 or (weight is not None and not np.any(weight))
        return Undefined("no rows" if empty else self.undefined)

    def replicates(
        self,
        truth: ArrayLike,
        prediction: ArrayLike,
        counts: ArrayLike,
        weight: ArrayLike | None = None,
        group: ArrayLike | None = None,
    ) -> Floats:
        """The metric [R] when row i is drawn ``counts[r, i]`` times; NaN where undefined."""
        values: Floats = replicates([self], truth, prediction, counts, weight, group)[0]
        return values


def replicates(
    metrics: Sequence[Metric],
    truth: ArrayLike,
    prediction: ArrayLike,
    counts: ArrayLike,
    weight: ArrayLike | None = None,
    group: ArrayLike | None = None,
) -> Floats:
    """Every metric in every replicate, [M, R], NaN where undefined.

    ``truth`` [n] holds class numbers (binary, classes, ordinal) or values in the user's units.
    ``prediction`` holds a probability or a value [n], or class probabilities [n, C]. ``counts``
    [R, n] says how often each replicate draws each row (fastest in Fortran order), ``weight`` [n]
    how much a row counts, ``group`` [n] whose row it is, a whole number, -1 for nobody's. Raises
    ``ValueError`` for shapes that do not fit, predictions that are not finite, class numbers out of
    range, negative weights, and where a metric needs groups and there are none.
    """
    truth, prediction, weight = _checked(np.asarray(truth), np.asarray(prediction), weight)
    counts = np.asarray(counts)
    if counts.ndim != 2 or counts.shape[1] != len(truth):
        raise ValueError(f"counts must be [replicates, {len(truth)} rows], got {counts.shape}")
    values = np.full((len(metrics), len(counts)), np.nan)
    if not len(truth):
        return values
    more = {metric.summary: _groups(metric, len(truth), group) for metric in metrics}
    summaries = {summary: summary(truth, prediction, *own) for summary, own in more.items()}
    for part, weights in _blocks(counts, weight):
        found = {summary: prepared(weights) for summary, prepared in summaries.items()}
        for row, metric in enumerate(metrics):
            values[row, part] = metric.value(found[metric.summary])
    return values


def _groups(metric: Metric, n: int, group: ArrayLike | None) -> tuple[NDArray[Any], ...]:
    """The groups, for a metric that takes them."""
    if not metric.grouped:
        return ()
    if group is None:
        raise ValueError(f"{metric.name} needs the group of each row")
    found = np.asarray(group)
    if found.shape != (n,) or found.dtype.kind not in "iu":
        raise ValueError(f"group must be one whole number for each of {n} rows")
    return (found,)


def _blocks(counts: NDArray[Any], weight: Floats | None) -> Iterator[tuple[slice, Floats]]:
    """Weights [n, Rb] for a few replicates at a time, one row's replicates side by side."""
    n = counts.shape[1]
    step = max(1, BLOCK // n, min(ATLEAST, MOST // n))
    for start in range(0, len(counts), step):
        part = slice(start, start + step)
        weights = counts[part].T.astype(np.float64, order="C")
        if weight is not None:
            weights *= weight[:, None]
        yield part, weights


def _checked(
    truth: NDArray[Any], prediction: NDArray[Any], weight: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any], Floats | None]:
    if truth.ndim != 1:
        raise ValueError(f"truth must be one value a row, got shape {truth.shape}")
    if prediction.ndim not in (1, 2) or len(prediction) != len(truth):
        raise ValueError(f"prediction has shape {prediction.shape} for {len(truth)} rows of truth")
    if prediction.dtype.kind != "f":
        prediction = prediction.astype(np.float64)
    for what, values in (("truth", truth), ("prediction", prediction)):
        bad = np.unique(np.nonzero(~np.isfinite(values))[0])
        if len(bad):
            raise ValueError(
                f"{what} is not finite in {len(bad)} of {len(values)} rows, "
                f"the first at position {bad[0]}: {values[bad[0]]}"
            )
    if prediction.ndim == 2:
        wrong = truth[(truth < 0) | (truth >= prediction.shape[1])]
        if len(wrong):
            raise ValueError(f"class {wrong[0]} in the truth, {prediction.shape[1]} predicted")
    if weight is None:
        return truth, prediction, None
    weight = np.asarray(weight, np.float64)
    if weight.shape != truth.shape or not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError("weight must be one finite number, 0 or more, for each row")
    return truth, prediction, weight


def ratio(above: Floats, below: Floats) -> Floats:
    """The quotient, NaN where ``below`` is not positive."""
    out = np.full(np.broadcast_shapes(above.shape, below.shape), np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out
