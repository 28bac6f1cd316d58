from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from sklearn.exceptions import UndefinedMetricWarning

from plait.tabular.scoring import mean_score
from plait.task import Task, TaskSet

TASKS = TaskSet([
    Task(name="a", kind="binary", classes=("no", "yes")),
    Task(name="b", kind="classes", classes=("1", "2", "3")),
    Task(name="c", kind="real"),
])  # fmt: skip
SAID = {
    "a": np.array([0.9, 0.2, 0.9, 0.9]),
    "b": np.eye(3)[[0, 1, 2, 2]],
    "c": np.array([1.0, 2.0, 3.0, 5.0]),
}


def test_the_score_is_the_mean_over_tasks_of_labelled_rows():
    truth = pl.DataFrame({
        "a": ["yes", "yes", None, "yes"],
        "b": [1.0, None, 3.0, 7.0],
        "c": [1.0, 2.0, 3.0, None],
    })  # fmt: skip
    assert mean_score(TASKS, truth, SAID, None) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    weight = np.array([1.0, 0.0, 1.0, 1.0])
    assert mean_score(TASKS, truth, SAID, weight) == pytest.approx((1 + 2 / 3 + 1) / 3)


def test_tasks_without_a_defined_score_count_in_no_mean():
    truth = pl.DataFrame({"a": [None] * 4, "b": [None] * 4, "c": [1.0, 1.0, None, None]})
    truth = truth.with_columns(pl.col("a").cast(pl.String), pl.col("b").cast(pl.Float64))
    with pytest.warns(UndefinedMetricWarning, match="no task has labels"):
        assert math.isnan(mean_score(TASKS, truth, SAID, None))
    told = truth.with_columns(b=pl.Series([1, 1, None, None]))
    assert mean_score(TASKS, told, SAID, None) == 0.5
