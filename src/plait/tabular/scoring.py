"""How good predictions are for the labels that there are: one figure, higher is better."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import numpy as np
import polars as pl
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import accuracy_score, r2_score

from plait.data.profile import as_text
from plait.tabular.form import Array
from plait.task import TaskSet


def mean_score(
    tasks: TaskSet, truth: pl.DataFrame, found: Mapping[str, Array], weight: Array | None
) -> float:
    """The mean over tasks of their accuracy (classes) or R² (amounts), on labelled rows.

    ``truth`` has the tasks' columns, in order. A task without labels, and R² of a constant target,
    are undefined and in no mean; NaN and a warning where nothing is defined.
    """
    scores = []
    for place, task in enumerate(tasks):
        column = truth.to_series(place)
        known = column.is_not_null().to_numpy()
        own = column.filter(pl.Series(known))
        part = None if weight is None else weight[known]
        if not len(own) or (part is not None and not part.any()):
            continue
        said = found[task.name][known]
        if task.classes:
            best = said.argmax(1) if said.ndim == 2 else (said > 0.5).astype(np.int64)
            names = np.array(task.classes, dtype=object)[best]
            right = as_text(own).to_numpy() == names
            scores.append(accuracy_score(np.ones(len(right)), right, sample_weight=part))
        elif own.n_unique() > 1:
            scores.append(r2_score(own.cast(pl.Float64).to_numpy(), said, sample_weight=part))
    if scores:
        return float(np.mean(scores))
    warnings.warn(
        "the score is undefined: no task has labels that tell", UndefinedMetricWarning, stacklevel=3
    )
    return math.nan
