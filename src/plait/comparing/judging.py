"""The loss of predictions as users see them, for choices on validation."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
TINY = 1e-7


def loss_of_predictions(
    kind: str, truth: Array, prediction: Array, weight: Array | None = None
) -> float:
    """The mean loss of one task, comparable between tasks and lower is better.

    Log loss for binary, classes and ordinal, squared error for (standardised) real targets, half
    the Poisson deviance for counts.
    """
    truth = np.asarray(truth, dtype=float)
    found = np.asarray(prediction, dtype=float)
    if kind == "binary":
        shares = np.clip(found, TINY, 1 - TINY)
        losses = -(truth * np.log(shares) + (1 - truth) * np.log1p(-shares))
    elif kind in ("classes", "ordinal"):
        own = found[np.arange(len(truth)), truth.astype(int)]
        losses = -np.log(np.clip(own, TINY, 1))
    elif kind == "counts":
        rate = np.clip(found, TINY, None)
        ratio = np.where(truth > 0, truth, 1.0) / rate
        losses = truth * np.log(ratio) - truth + rate
    else:
        losses = np.square(truth - found)
    return float(np.average(losses, weights=weight))
