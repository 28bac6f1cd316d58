"""From the columns of y to declared tasks: which kind each is, and which classes it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from plait.data.declare import TaskSpec
from plait.data.errors import DataError
from plait.data.profile import as_text
from plait.data.targets import guess_kind, natural
from plait.method import did_you_mean
from plait.task import kind_of

CLASSED = ("binary", "classes", "ordinal")
SETTINGS = ("kind", "classes", "loss", "metrics", "preference")
BOTH = (("0", "1"), ("false", "true"))  # columns of these have two classes, seen or not

Given = Sequence[str] | Mapping[str, Any] | None


def names_of(tasks: Given) -> tuple[str, ...] | None:
    """The names that ``tasks`` has for the columns of an array."""
    return None if tasks is None else tuple(map(str, tasks))


def declare(columns: pl.DataFrame, tasks: Given, estimator: str) -> dict[str, TaskSpec]:
    """The task of every column, its kind and classes decided by all of its labels.

    ``estimator`` is None's rule for the kind: ``any`` guesses it as a study does, ``classifier``
    takes classes and ``regressor`` amounts. Raises ``ValueError`` for columns that do not fit.
    """
    given = _given(tasks, columns.columns)
    return {
        name: _declared(name, columns[name], given.get(name, {}), estimator)
        for name in columns.columns
    }


def _given(tasks: Given, columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Settings by column, each checked for its keys."""
    if tasks is None:
        return {}
    spelled = tasks if isinstance(tasks, Mapping) else dict.fromkeys(tasks)
    found: dict[str, dict[str, Any]] = {}
    for name, one in spelled.items():
        if str(name) not in columns:
            raise DataError(f"tasks: y has no column {name!r}{did_you_mean(str(name), columns)}")
        settings = {"kind": one} if one is None or isinstance(one, str) else dict(one)
        for key in settings:
            if key not in SETTINGS:
                hint = did_you_mean(str(key), SETTINGS)
                raise DataError(f"tasks: {name!r} has no setting {key!r}{hint}")
        found[str(name)] = settings
    return found


def _declared(name: str, values: pl.Series, given: Mapping[str, Any], estimator: str) -> TaskSpec:
    labelled = values.drop_nulls()
    if not len(labelled):
        raise DataError(f"y: task {name!r} has no label")
    if values.dtype.is_float() and labelled.is_infinite().any():
        row = int(values.is_infinite().fill_null(value=False).arg_max() or 0)
        raise DataError(f"y, row {row + 1}: task {name!r} holds an infinite value")
    kind = _kind(name, labelled, given, estimator)
    _fits(name, kind, labelled, estimator)
    classes = given.get("classes")
    if kind in CLASSED and classes is None:
        classes = _classes(name, labelled)
        if kind == "binary" and len(classes) > 2:
            shown = ", ".join(map(repr, classes[:5]))
            raise DataError(f"y: task {name!r} is binary, but has {len(classes)} values ({shown})")
    return TaskSpec(**{**given, "kind": kind, "classes": classes})


def _kind(name: str, labelled: pl.Series, given: Mapping[str, Any], estimator: str) -> str:
    if given.get("kind"):
        try:
            return kind_of(str(given["kind"])).name
        except ValueError as error:
            raise DataError(f"tasks: {name!r}: {error}") from error
    if given.get("classes") is not None:
        return "binary" if len(given["classes"]) == 2 else "classes"
    if estimator == "regressor":
        return "real"
    guess = guess_kind(labelled, f"y: task {name!r}")
    if estimator == "classifier" and guess == "real":
        return "binary" if labelled.n_unique() <= 2 else "classes"
    return guess


def _fits(name: str, kind: str, labelled: pl.Series, estimator: str) -> None:
    """Refuse amounts in a classifier and classes in a regressor."""
    if estimator == "classifier":
        if kind not in CLASSED:
            raise DataError(
                f"y: task {name!r} is {kind}: a classifier takes classes; use MultiTaskEstimator"
            )
        if labelled.dtype.is_float() and not bool((labelled == labelled.floor()).all()):
            raise DataError(
                f"Unknown label type: continuous. Task {name!r} holds amounts; use "
                "MultiTaskRegressor, or MultiTaskEstimator for tasks of several kinds"
            )
    if estimator == "regressor" and (kind in CLASSED or not labelled.dtype.is_numeric()):
        raise DataError(
            f"y: task {name!r} holds classes: a regressor takes numbers; use MultiTaskEstimator"
        )


def _classes(name: str, labelled: pl.Series) -> list[str]:
    """The values of a column in order, numbers as numbers."""
    values = sorted(as_text(labelled).unique().to_list(), key=natural)
    for both in BOTH:
        if set(values) <= set(both):
            return list(both)
    if len(values) < 2:
        raise DataError(
            f"y: task {name!r} has one class only, {values[0]!r}; leave it out, or declare all its "
            f"classes: tasks={{{name!r}: {{'classes': [...]}}}}"
        )
    return values
