from __future__ import annotations

import polars as pl
import pytest

from plait.tabular.targets import declare


def kinds(values, tasks=None, estimator="any"):
    """The kind and classes of a single column."""
    (spec,) = declare(pl.DataFrame({"y": values}), tasks, estimator).values()
    return spec.kind, spec.classes and list(spec.classes)


@pytest.mark.parametrize(
    ("values", "estimator", "kind", "classes"),
    [
        ([0, 1, 1, None], "any", "binary", ["0", "1"]),
        ([1.0, 1.0], "any", "binary", ["0", "1"]),
        ([False, False], "classifier", "binary", ["false", "true"]),
        (["b", "a", "a"], "any", "binary", ["a", "b"]),
        (["yes", "active", "no"], "any", "classes", ["active", "no", "yes"]),
        ([10, 9, 2] * 5, "classifier", "classes", ["2", "9", "10"]),
        ([10, 9, 2] * 5, "any", "real", None),
        ([-1, 1], "any", "binary", ["-1", "1"]),
        ([0.5, 1.5, 2.5], "any", "real", None),
        ([0, 1, 1], "regressor", "real", None),
    ],
)
def test_kinds_and_classes_are_inferred(values, estimator, kind, classes):
    assert kinds(values, estimator=estimator) == (kind, classes)


@pytest.mark.parametrize(
    ("tasks", "kind", "classes"),
    [
        ({"y": "counts"}, "counts", None),
        ({"y": "regression"}, "real", None),
        ({"y": {"kind": "ordinal"}}, "ordinal", ["0", "1", "2"]),
        ({"y": {"kind": "ordinal", "classes": [2, 1, 0]}}, "ordinal", [2, 1, 0]),
        ({"y": {"classes": [0, 1, 2, 3]}}, "classes", [0, 1, 2, 3]),
    ],
)
def test_kinds_and_classes_can_be_declared(tasks, kind, classes):
    assert kinds([0, 1, 2] * 5, tasks) == (kind, classes)


@pytest.mark.parametrize(
    ("values", "tasks", "estimator", "message"),
    [
        ([None, None], None, "any", "task 'y' has no label"),
        (["a", "a"], None, "any", "one class only, 'a'.*'classes'"),
        ([0.0, float("inf")], None, "any", "y, row 2: task 'y' holds an infinite value"),
        ([0.5, 1.5, 2.0], None, "classifier", "Unknown label type: continuous.*MultiTaskRegressor"),
        ([0, 1], {"y": "real"}, "classifier", "is real: a classifier takes classes"),
        (["a", "b"], None, "regressor", "a regressor takes numbers"),
        ([0, 1], {"y": "binary"}, "regressor", "a regressor takes numbers"),
        ([0, 1, 2], {"y": "binary"}, "any", "is binary, but has 3 values"),
        ([0, 1], {"y": "binari"}, "any", "no kind 'binari'.*binary"),
        ([f"word {i}" for i in range(50)], None, "any", "neither numbers nor classes"),
    ],
)
def test_columns_that_do_not_fit_are_refused(values, tasks, estimator, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        kinds(values, tasks, estimator)
