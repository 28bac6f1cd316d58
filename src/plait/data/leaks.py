"""Inputs that give the answer away: alone they determine a target, or which task a row belongs to.

Looked for on a sample of the training rows: such a column is often a copy of the target, or was
written down after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from plait.data.profile import as_text
from plait.data.stores import Array

SAMPLE = 5_000  # training rows of a table
LEAST = 50  # labels of a task among them
MOST_TASKS = 60
PERFECT = 0.99
COMMON = 0.9  # where one class has this share, being right is no evidence


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some training rows of a table: the ``rows`` [n] of the data set and their input columns.

    ``task`` [n] says which of the tasks named by a column each row belongs to, where one is so.
    """

    table: str
    rows: Array
    frame: pl.DataFrame
    types: Mapping[str, str]


def chosen(fit: Array) -> Array:
    """At most ``SAMPLE`` of the training rows, evenly spread, as a mask [n]."""
    rows = np.flatnonzero(fit)
    found = np.zeros(len(fit), dtype=bool)
    step = max(len(rows) / SAMPLE, 1.0)
    found[rows[(np.arange(min(len(rows), SAMPLE)) * step).astype(np.int64)]] = True
    return found


def leak_warnings(
    sample: Sample, targets: Mapping[str, tuple[Array, Array, bool]], by: Mapping[str, Array]
) -> list[str]:
    """Warnings for columns of a sample that alone determine a target or a task.

    ``targets`` has for each task the places [m] in the sample, the labels there, and whether they
    are classes; ``by`` the number of each row's task for each column that names tasks.
    """
    told: dict[str, list[str]] = {}
    columns = _columns(sample)
    for name, (places, labels, classes) in list(targets.items())[:MOST_TASKS]:
        if len(places) < LEAST or len(np.unique(labels)) < 2:
            continue
        for column, values in columns.items():
            if _tells(values[places], labels, classes=classes):
                told.setdefault(column, []).append(name)
    found = [
        f"{sample.table}: the input {column!r} alone tells {_shown(names)} almost perfectly; if it "
        "is a copy, or is known only afterwards, leave it out: ignore"
        for column, names in told.items()
    ]
    for naming, numbers in by.items():
        for column, values in columns.items():
            if len(np.unique(numbers)) > 1 and _tells(values, numbers, classes=True):
                found.append(
                    f"{sample.table}: the input {column!r} alone tells the task (by {naming}); if "
                    "it is another name of it, leave it out: ignore"
                )
    return found


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tasks" if len(names) > 3 else "")


def _columns(sample: Sample) -> dict[str, Array]:
    """Numbers as they are, categories as codes, NaN where missing. [n] each"""
    found = {}
    for name, kind in sample.types.items():
        values = sample.frame[name]
        if kind == "numeric":
            number = values.to_physical() if values.dtype.is_temporal() else values
            found[name] = number.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
        elif kind == "categorical":
            codes = as_text(values).rank("dense").cast(pl.Float64)
            found[name] = codes.fill_null(np.nan).to_numpy()
    return found


def _tells(values: Array, labels: Array, *, classes: bool) -> bool:
    """Whether knowing the value is almost knowing the label."""
    there = ~np.isnan(values)
    if there.sum() < max(LEAST, 0.5 * len(values)):
        return False
    values, labels = values[there], labels[there]
    kinds, codes = np.unique(values, return_inverse=True)
    if len(kinds) < 2:
        return False
    if not classes:
        return len(kinds) > 10 and abs(_rank_correlation(values, labels)) > 0.9995
    names, label = np.unique(labels, return_inverse=True)
    if np.bincount(label).max() > COMMON * len(label) and np.bincount(label).min() < 10:
        return False
    if len(kinds) <= len(values) / 5:
        table = np.zeros((len(kinds), len(names)))
        np.add.at(table, (codes, label), 1)
        right = table.max(1).sum() / len(values)
    else:
        # Of many values: how often the label changes along them, beside the changes it needs.
        changes = int((np.diff(label[np.argsort(values, kind="stable")]) != 0).sum())
        right = 1 - (changes - (len(names) - 1)) / len(values)
    base = np.bincount(label).max() / len(label)
    # Beside the share of the most frequent class, nearly nothing is left to be learnt.
    return bool(1 - right < (1 - PERFECT) * min(1.0, 2 * (1 - base)))


def _rank_correlation(a: Array, b: Array) -> float:
    ranks = [pl.Series(each).rank().to_numpy() for each in (a, b)]
    if any(rank.std() == 0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
