"""Targets: from declared columns to tasks with their kinds, classes and labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import polars as pl

from plait.data.columns import fits
from plait.data.declare import TaskSpec
from plait.data.errors import DataError
from plait.data.profile import as_text, odd_words
from plait.data.sources import Table
from plait.data.stores import Array
from plait.data.where import Condition, ConditionError, condition
from plait.kinds import Place, check_loss
from plait.method import did_you_mean
from plait.metrics import check_metrics
from plait.task import KINDS, Task, kind_of

FEW_INTEGERS = 20
MOST_CLASSES = 1_000
PIECE = 1 << 20  # labels numbered together, to bound memory
YES = ("yes", "y", "true", "t", "1", "positive", "pos", "active", "on")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A column whose values are labels: of one task, or of one for each value of ``spec.by``."""

    declared: str
    task: str
    table: Table
    column: str
    spec: TaskSpec
    condition: Condition | None = None

    @property
    def place(self) -> Place:
        """What has a label: a row, or each token or pixel of it, as declared or as it is stored."""
        if self.spec.kind is not None:
            return KINDS[_declared_kind(self)].place
        return "token" if self.table.schema.get(self.column) == pl.List(pl.String) else "row"

    @property
    def condition_columns(self) -> tuple[str, ...]:
        """The columns that say where a label is valid."""
        return () if self.condition is None else self.condition.columns


def find_targets(
    tables: Mapping[str, Table], tasks: Mapping[str, TaskSpec], reserved: set[str]
) -> list[Target]:
    """The target columns of every declared task.

    Raises :class:`DataError` for tables, targets and patterns that match nothing, with the nearest
    name, and for several tasks of one name.
    """
    if not tasks:
        raise DataError("no tasks are declared; name at least one target")
    found: list[Target] = []
    for name, spec in tasks.items():
        if spec.table is not None and spec.table not in tables:
            raise DataError(
                f"task {name!r}: no table {spec.table!r}{did_you_mean(spec.table, tables)}",
                ("tasks", name, "table"),
            )
        near = [tables[spec.table]] if spec.table is not None else list(tables.values())
        if spec.columns is not None:
            found += _pattern(name, spec, near, reserved)
        else:
            found.append(_single(name, spec, near))
    found = [_with_condition(target) for target in found]
    for target in found:
        _check_target(target)
        for column, use in (
            (target.spec.by, "by"),
            (target.spec.weight, "weight"),
            (target.spec.group, "group"),
        ):
            if column is not None:
                target.table.need(column, f"{use} of task {target.declared!r}")
    names = [target.task for target in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"two tasks are called {twice[0]!r}; declare the column once")
    return found


def _check_target(target: Target) -> None:
    """A target is one value a row."""
    table, column = target.table, target.column
    dtype = table.schema.get(column)
    if target.place == "row" and (dtype is None or dtype.is_nested() or dtype == pl.Binary):
        raise DataError(
            f"{table.place}: task {target.task!r}: {column!r} is an array; a target is one value "
            "a row",
            ("tasks", target.declared, "target"),
        )


def _with_condition(target: Target) -> Target:
    """The target with its ``where`` read and held against the columns of its table."""
    if target.spec.where is None:
        return target
    try:
        found = condition(target.spec.where)
        found.expression(target.table.schema)
    except ConditionError as error:
        raise DataError(
            f"{target.table.place}: task {target.declared!r}: where {error}",
            ("tasks", target.declared, "where"),
        ) from error
    return replace(target, condition=found)


def _single(name: str, spec: TaskSpec, tables: Sequence[Table]) -> Target:
    column = spec.target or name
    having = [table for table in tables if column in table.columns]
    if not having:
        known = [each for table in tables for each in table.columns]
        where = tables[0].place if len(tables) == 1 else "no table"
        said = f"{where}: no column" if len(tables) == 1 else f"{where} has a column"
        nearest = did_you_mean(column, known)
        raise DataError(f"{said} {column!r} for task {name!r}{nearest}", ("tasks", name, "target"))
    if len(having) > 1:
        names = ", ".join(table.name for table in having)
        raise DataError(
            f"task {name!r}: column {column!r} is in several tables ({names}); say which: "
            f"table: {having[0].name}",
            ("tasks", name),
        )
    return Target(declared=name, task=name, table=having[0], column=column, spec=spec)


def _pattern(
    name: str, spec: TaskSpec, tables: Sequence[Table], reserved: set[str]
) -> list[Target]:
    if spec.by is not None or spec.target is not None:
        raise DataError(f"task {name!r}: give columns, or target (and by), not both")
    assert spec.columns is not None
    patterns = [spec.columns] if isinstance(spec.columns, str) else list(spec.columns)
    known = [each for table in tables for each in table.columns]
    chosen: dict[str, Target] = {}
    for pattern in patterns:
        matched = False
        for table in tables:
            for column in table.columns:
                if fits(column, pattern) and (column == pattern or column not in reserved):
                    matched = True
                    if column in chosen and chosen[column].table is not table:
                        raise DataError(
                            f"task {name!r}: column {column!r} is in tables "
                            f"{chosen[column].table.name!r} and {table.name!r}; say which: table"
                        )
                    chosen[column] = Target(
                        declared=name, task=column, table=table, column=column, spec=spec
                    )
        if not matched:
            raise DataError(
                f"task {name!r}: no column matches {pattern!r}{did_you_mean(pattern, known)}",
                ("tasks", name, "columns"),
            )
    return list(chosen.values())


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The labels of one target before they are split into tasks: ``rows`` [n] of the table."""

    rows: Array
    values: pl.Series
    train: Array


def kind_for(target: Target, answers: Answers) -> tuple[str, tuple[str, ...]]:
    """The kind and the classes of a target, declared or inferred from the training rows.

    Raises :class:`DataError` for values that do not fit the kind.
    """
    spec = target.spec
    train = answers.values.filter(pl.Series(answers.train))
    if len(train) == 0:
        raise DataError(
            f"{target.table.place}: task {target.task!r} has no label in the training rows"
        )
    if spec.positive is not None:
        return _positive(target, answers)
    kind = _declared_kind(target) if spec.kind else None
    if target.place != "row":
        kind = kind or "tokens"
    if kind is None:
        kind = guess_kind(train, f"{target.table.place}: task {target.task!r}")
        if spec.classes is not None and kind in ("binary", "real"):
            kind = "binary" if len(spec.classes) == 2 else "classes"
    if kind in ("real", "counts"):
        return kind, ()
    classes = tuple(map(spelled, spec.classes)) if spec.classes is not None else None
    if classes is None:
        classes = _classes(target, train, kind)
    if kind == "binary" and len(classes) != 2:
        raise _not_binary(target, answers, classes)
    if len(classes) < 2:
        raise DataError(
            f"{target.table.place}: task {target.task!r}: every training row has the value "
            f"{classes[0]!r}; declare its classes or remove the task"
        )
    return kind, classes


def _not_binary(target: Target, answers: Answers, classes: Sequence[str]) -> DataError:
    """Three values or more, or one, of a task declared binary: the rarest one and its row."""
    has = f"task {target.task!r} is binary, but {target.column!r} has {len(classes)} values"
    where, fix = target.table.place, "declare kind: classes, or positive: VALUE"
    if len(classes) > 2:
        text = as_text(answers.values).alias("value")
        rarest = str(text.value_counts().sort("count", "value")["value"][0])
        where = target.table.where(int(answers.rows[int((text == rarest).arg_max() or 0)]))
        fix = f"{rarest!r} is the rarest: correct it or declare missing: [{rarest}]; else {fix}"
    declared = ("tasks", target.declared, "kind")
    return DataError(f"{where}: {has} ({_shown(classes)}); {fix}", declared)


def spelled(value: Any) -> str:
    """A declared value as the values of columns are spelled: ``True`` is ``true``, 3.0 is ``3``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _declared_kind(target: Target) -> str:
    try:
        return kind_of(str(target.spec.kind)).name
    except ValueError as error:
        raise DataError(f"task {target.declared!r}: {error}") from error


def _positive(target: Target, answers: Answers) -> tuple[str, tuple[str, ...]]:
    yes = spelled(target.spec.positive)
    if target.spec.kind is not None and _declared_kind(target) != "binary":
        raise DataError(f"task {target.declared!r}: positive makes it binary; remove kind")
    values = as_text(answers.values.unique()).to_list()
    if yes not in values:
        raise DataError(
            f"{target.table.place}: task {target.task!r}: no row has the positive value "
            f"{yes!r}{did_you_mean(yes, map(str, values))}"
        )
    return "binary", (f"not {yes}", yes)


def guess_kind(values: pl.Series, place: str = "") -> str:
    """The kind that labelled values suggest; when in doubt, ``real``.

    Two values are binary, words and few integers are classes, other numbers are real. Counts and
    ordinal are never guessed. Raises :class:`DataError` for words of which nearly none repeat.
    """
    values = values.drop_nulls()
    distinct = values.n_unique()
    if values.dtype == pl.Boolean or distinct == 2:
        return "binary"
    if not values.dtype.is_numeric():
        if distinct > MOST_CLASSES or (distinct > 20 and distinct > len(values) / 2):
            hint = ""
            if words := odd_words(values):
                hint = (
                    f"; if {', '.join(map(repr, words))} means no label, declare missing: {words}"
                )
            raise DataError(
                f"{place}: {distinct} different words in {len(values)} rows are neither numbers "
                f"nor classes; choose another target{hint}"
            )
        return "classes"
    if distinct == 1:
        return "binary" if values[0] in (0, 1) else "real"
    whole = values.dtype.is_integer() or bool((values == values.floor()).all())
    low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
    few = distinct <= FEW_INTEGERS and len(values) >= 5 * distinct
    # 0, 1, 2, … with hardly a gap are names of classes; anything else is an amount.
    return "classes" if whole and few and low in (0, 1) and high - low < 1.5 * distinct else "real"


def _classes(target: Target, train: pl.Series, kind: str) -> tuple[str, ...]:
    named = target.table.classes.get(target.column)
    if named:
        return named
    values = sorted(as_text(train.unique()).unique().to_list(), key=natural)
    if kind == "binary" and set(values) <= {"0", "1"}:
        return ("0", "1")
    if kind == "binary" and set(values) <= {"false", "true"}:
        return ("false", "true")
    if kind == "binary" and len(values) == 2 and values[0].lower() in YES:
        values.reverse()
    return tuple(values)


def natural(value: str) -> tuple[int, float, str]:
    """Sorts numbers as numbers and before words."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    return (0, number, value) if math.isfinite(number) else (1, 0.0, value)


def _shown(values: Sequence[str], most: int = 5) -> str:
    return ", ".join(map(repr, values[:most])) + (", …" if len(values) > most else "")


def numbers_for(target: Target, answers: Answers, kind: str, classes: Sequence[str]) -> Array:
    """Labels as numbers: class numbers, or amounts as float64.

    Raises :class:`DataError` with the row for a class not seen in train, text that is no number,
    infinite amounts, counts below zero or with fractions.
    """
    if kind in ("real", "counts"):
        return _amounts(target, answers, kind)
    # The few values that there are become text, not every row's.
    kinds = answers.values.unique()
    text = as_text(kinds)
    if target.spec.positive is not None:
        codes = (text == classes[1]).cast(pl.Int32)
    else:
        if target.table.classes.get(target.column) == tuple(classes) and kinds.dtype.is_integer():
            text = pl.Series(map(str, classes)).gather(kinds)
        codes = text.replace_strict(
            pl.Series(classes), pl.Series(range(len(classes)), dtype=pl.Int32),
            default=None, return_dtype=pl.Int32,
        )  # fmt: skip
    found = np.empty(len(answers.values), dtype=np.int32)
    for start in range(0, len(found), PIECE):
        piece = answers.values[start : start + PIECE].replace_strict(
            kinds, codes, return_dtype=pl.Int32
        )
        if piece.null_count():
            _unknown(target, answers, start + int(piece.is_null().arg_max() or 0), classes)
        found[start : start + PIECE] = piece.to_numpy()
    return found


def _unknown(target: Target, answers: Answers, at: int, classes: Sequence[str]) -> NoReturn:
    """Refuse a label that is none of the classes."""
    where, value = target.table.where(int(answers.rows[at])), as_text(answers.values[at : at + 1])
    if target.spec.classes is not None:
        hint = did_you_mean(str(value[0]), classes)
        fault = f"is not among its classes ({_shown(classes)})" + (hint if "mean" in hint else "")
    else:
        fault = "is in no training row; declare classes, or use a stratified split"
    raise DataError(
        f"{where}: task {target.task!r}: {target.column!r} is {value[0]!r}, which {fault}",
        ("tasks", target.declared),
    )


def _amounts(target: Target, answers: Answers, kind: str) -> Array:
    values = answers.values
    if values.dtype.is_temporal():
        values = values.to_physical()
    found = values.cast(pl.Float64, strict=False).to_numpy()
    whole = kind == "counts"
    wrong = ~np.isfinite(found) | (whole & ((found < 0) | (found != np.floor(found))))
    if wrong.any():
        at = int(np.argmax(wrong))
        needs = "a whole number from 0" if whole else "a number"
        raise DataError(
            f"{target.table.where(int(answers.rows[at]))}: task {target.task!r}: "
            f"{target.column!r} is {answers.values[at]!r}, but kind {kind} needs {needs}; correct "
            f"it, or declare missing: [{answers.values[at]}]",
            ("tasks", target.declared),
        )
    return found


def make_task(
    target: Target, name: str, kind: str, classes: tuple[str, ...], amounts: Array
) -> Task:
    """The task; real targets take their centre and scale from the ``amounts`` of training rows."""
    center, scale = 0.0, 1.0
    if KINDS[kind].standardised and len(amounts):
        center, deviation = float(amounts.mean()), float(amounts.std())
        scale = deviation if deviation > 1e-12 * max(1.0, abs(center)) else 1.0
    spec = target.spec
    try:
        check_loss(spec.loss or KINDS[kind].loss, kind)
        check_metrics(spec.metrics or (), kind, group=spec.group is not None)
        return Task(
            name=name, kind=kind, classes=classes, center=center, scale=scale,
            loss=spec.loss or "", metrics=tuple(spec.metrics or ()), preference=spec.preference,
            after=spec.after or "",
        )  # fmt: skip
    except ValueError as error:
        raise DataError(f"task {target.declared!r}: {error}") from error
