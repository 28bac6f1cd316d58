"""The loss of predictions as users see them, for choices on validation."""

from __future__ import annotations

from typing import Any

import numpy as np

from plait.kinds import KINDS

Array = np.ndarray[Any, Any]


def loss_of_predictions(
    kind: str, truth: Array, prediction: Array, weight: Array | None = None
) -> float:
    """The mean loss of one task, comparable between tasks and lower is better.

    Log loss for binary, classes and ordinal, squared error for (standardised) real targets, half
    the Poisson deviance for counts. Predictions of positions are their rows' tallies.
    """
    truth = np.asarray(truth, dtype=float)
    found = np.asarray(prediction, dtype=float)
    losses = KINDS[kind].judge(truth, found)
    if KINDS[kind].tally is not None:  # each position counts, not each row
        weight = found[:, 0] if weight is None else found[:, 0] * weight
    return float(np.average(losses, weights=weight))
