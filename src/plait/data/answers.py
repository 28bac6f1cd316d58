"""Answers: which rows answer a target's question, and what several answers of one id are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from plait.data.errors import DataError
from plait.data.profile import as_text
from plait.data.stores import Array
from plait.data.targets import Target, spelled

LISTED = 10


def answered(target: Target, frame: pl.DataFrame) -> pl.Series:
    """Which rows have a label: the value is there, means something, and the condition holds."""
    values = frame[target.column]
    there = values.is_not_null()
    if target.spec.missing:
        there &= means_nothing(target, values).not_()
    if target.condition is not None:
        there &= frame.select(target.condition.expression(frame.schema)).to_series()
    return there


def means_nothing(target: Target, values: pl.Series) -> pl.Series:
    """Which values are among those that the task declares as missing."""
    words = [spelled(value) for value in target.spec.missing]
    kinds = values.unique().drop_nulls()
    named = target.table.classes.get(target.column)
    if values.dtype.is_numeric() and named is None:
        numbers = [number for word in words if (number := _number(word)) is not None]
        absent = kinds.cast(pl.Float64).is_in(numbers)
    else:
        if named is not None:  # numbers in the data, names for people
            words += [str(code) for code, name in enumerate(named) if name in words]
        absent = as_text(kinds).is_in(words)
    return values.is_in(kinds.filter(absent).implode()).fill_null(value=False)


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


@dataclass(frozen=True, kw_only=True)
class Settled:
    """One label an id: the places ``kept`` [n] among the answers, their values, and it in words."""

    kept: Array
    values: Array
    said: str = ""


def settle(
    target: Target,
    kind: str,
    keys: Array,
    values: Array,
    parts: Array,
    rows: Array,
    names: Callable[[Array], list[str]],
) -> Settled:
    """What several labels of one id are worth, as the task's ``repeats`` says.

    ``keys`` [n] number the ids (of one task each), ``values`` [n] are the labels as numbers,
    ``parts`` [n] the parts of the split, ``rows`` [n] those of the table; ``names`` gives the ids
    at some places. Raises
    :class:`DataError`, listing the first ten, for repeated ids that nothing was declared for, and
    for an id with labels in two parts of the split.
    """
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    if len(first) == len(keys):
        return Settled(kept=np.arange(len(keys)), values=values)
    several = np.bincount(inverse)[inverse] > 1
    differing = several & _differs(inverse, values)
    rule = target.spec.repeats
    if rule == "refuse":
        odd = differing if differing.any() else several
        where = target.table.where(int(rows[np.argmax(odd)]))
        raise _repeated(
            target, where, first[np.unique(inverse[several])], inverse, differing, names
        )
    apart = several & _differs(inverse, parts)
    if apart.any():
        shown = _listed(names, np.flatnonzero(apart), inverse)
        raise DataError(
            f"{target.table.place}: task {target.task!r}: repeated ids lie in several parts of the "
            f"split: {shown}; keep them together with a grouped split by the id",
            ("data", "split"),
        )
    order = np.sort(first)
    count = int(several.sum())
    ids = len(np.unique(inverse[several]))
    said = f"{target.task}: {count:,} labels of {ids:,} repeated ids became "
    if rule == "first":
        unlike = len(np.unique(inverse[differing]))
        said += f"one each, the first; {unlike:,} of these ids had differing labels."
        return Settled(kept=order, values=values[order], said=said)
    if kind == "counts":
        raise DataError(
            f"{target.table.place}: task {target.task!r}: the mean of counts is no count; declare "
            "kind: real, or repeats: first",
            ("tasks", target.declared, "repeats"),
        )
    if kind == "real":
        means = np.bincount(inverse, values) / np.bincount(inverse)
        said += "their means."
        return Settled(kept=order, values=means[inverse[order]], said=said)
    chosen = _majority(inverse, values)
    return Settled(kept=order, values=chosen[inverse[order]], said=f"{said}what most say.")


def _differs(group: Array, values: Array) -> Array:
    """Whether the members of each row's group have differing values. [n]"""
    low = np.full(int(group.max()) + 1, np.inf)
    high = np.full_like(low, -np.inf)
    np.minimum.at(low, group, values)
    np.maximum.at(high, group, values)
    found: Array = (low != high)[group]
    return found


def _majority(group: Array, classes: Array) -> Array:
    """The most frequent class of every group; of equally frequent ones the first to come. [g]"""
    width = int(classes.max()) + 1
    both, first, count = np.unique(group * width + classes, return_index=True, return_counts=True)
    order = np.lexsort((first, -count, both // width))
    best = np.unique(both[order] // width, return_index=True)[1]
    found: Array = both[order][best] % width
    return found


def _listed(names: Callable[[Array], list[str]], places: Array, group: Array) -> str:
    """The first ten ids among some places, each once."""
    _, first = np.unique(group[places], return_index=True)
    chosen = places[np.sort(first)]
    more = f" and {len(chosen) - LISTED:,} more" if len(chosen) > LISTED else ""
    return ", ".join(names(chosen[:LISTED])) + more


def _repeated(
    target: Target,
    where: str,
    first: Array,
    group: Array,
    differing: Array,
    names: Callable[[Array], list[str]],
) -> DataError:
    places = np.flatnonzero(differing) if differing.any() else np.sort(first)
    fault = f"{len(first):,} ids appear" if len(first) > 1 else "1 id appears"
    fault += " more than once"
    if differing.any():
        count = len(np.unique(group[differing]))
        fault += f", {count:,} of them with contradictory labels"
    return DataError(
        f"{where}: task {target.task!r}: {fault}: {_listed(names, places, group)}; "
        "keep one row for each id, or declare repeats: mean or first for replicates",
        ("tasks", target.declared),
    )


def extras(target: Target, frame: pl.DataFrame, rows: Array) -> dict[str, Any]:
    """The weight and group of the labelled rows, where the task declares such columns."""
    found: dict[str, Any] = {}
    if target.spec.weight is not None:
        weight = frame[target.spec.weight].cast(pl.Float64, strict=False).to_numpy()[rows]
        wrong = ~(np.isfinite(weight) & (weight >= 0))
        if wrong.any():
            at = int(rows[np.argmax(wrong)])
            raise DataError(
                f"{target.table.where(at)}: task {target.task!r}: weight {target.spec.weight!r} "
                f"is {frame[target.spec.weight][at]!r}; weights are numbers from 0",
                ("tasks", target.declared, "weight"),
            )
        found["weight"] = weight.astype(np.float32)
    if target.spec.group is not None:
        column = frame[target.spec.group].cast(pl.String)
        if column.null_count() == len(column):
            raise DataError(
                f"{target.table.place}: task {target.task!r}: group {target.spec.group!r} is empty",
                ("tasks", target.declared, "group"),
            )
        codes = column.rank("dense").cast(pl.Int64) - 1
        found["group"] = codes.fill_null(-1).to_numpy()[rows]
    return found
