"""The gain of a metric: its change in per cent of a reference, and why there may be none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plait.comparing.ranking import interval
from plait.metrics import Metric
from plait.metrics.base import Floats

NEAR_ZERO = 3.0  # a reference within this many of its standard errors from 0 divides nothing
CLOSE = f"less than {NEAR_ZERO:g} standard errors from zero, too close to divide by"
TOO_FEW = "in most resamples it has no value"
NEITHER = "it is best at 1, so that neither more nor less of it is a gain"
_SIGN = {True: 100.0, False: -100.0, None: np.nan}


def divisor(reference: Floats) -> tuple[Floats, list[bool]]:
    """The reference [M, 1 + R], NaN where it is too close to zero; and which metrics that are."""
    close = []
    usable = reference.copy()
    for draws in usable:
        defined = draws[np.isfinite(draws)]
        spread = defined.std() if len(defined) else 0.0
        close.append(bool(abs(draws[0]) <= NEAR_ZERO * spread))
        if close[-1]:
            draws[:] = np.nan
    return usable, close


def gains_of(metrics: Sequence[Metric], values: Floats, reference: Floats) -> Floats:
    """Per cent of the reference, higher is better, all [M, 1 + R]."""
    sign = np.array([_SIGN[metric.higher] for metric in metrics])
    gains = np.full(values.shape, np.nan)
    np.divide(values - reference, np.abs(reference), out=gains, where=reference != 0)
    gains *= sign[:, None]
    return gains


def why_undefined(metric: Metric, draws: Floats, rows: int) -> str:
    """Why a metric is undefined, or nothing."""
    if interval(draws).defined:
        return ""
    if np.isfinite(draws[0]):
        return TOO_FEW
    return metric.undefined if rows else "no rows"
