"""Declarations: which tables, tasks and split; plain values, as a study's file has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

SplitKind = Literal["random", "stratified", "grouped", "time", "column"]
TYPES = (
    "numeric", "categorical", "hashed", "text", "image", "vector", "list", "sequence", "ignored",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """One table and what its columns are for.

    ``source`` is a path (globs allowed) to Parquet, CSV or npz, or an object: polars, pandas,
    Arrow, a ``datasets`` data set, a dict of arrays or tensors. ``inputs`` maps roles to columns of
    this table (several text columns are read as one, joined); None takes every column that has no
    other use.
    ``types`` overrides the inferred type of a column or role, ``buckets`` says into how many those
    of type ``hashed`` fall.
    """

    source: Any
    inputs: Mapping[str, str | Sequence[str]] | Sequence[str] | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    ignore: Sequence[str] = ()
    buckets: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task, one task per column (``columns``: glob patterns), or one per value of ``by``.

    ``target`` defaults to the column with the task's name. ``kind`` is inferred where it is not
    given. ``positive`` makes a binary task of any column: this value against all others.
    ``unseen`` says what happens to values of ``by``, and to columns of a pattern, that have no
    label in some part of the split: ``refuse`` or ``skip``.

    A row has a label where its target is there, is none of the values in ``missing``, and ``where``
    holds (see :mod:`plait.data.where`). ``repeats`` says what several labels of one id are:
    a mistake (``refuse``), all but the first to be left out (``first``), or replicates (``mean``:
    the mean of a real target, the majority of the others).

    ``after`` names the task that must happen first, both binary: where that one is negative this
    one is negative too, labelled or not (see :mod:`plait.data.chains`).

    ``weight`` (a column) weighs the labels of the task, ``preference`` (a number) the task among
    the others. ``group`` is a column: whose rows belong together, as a user's.
    """

    target: str | None = None
    table: str | None = None
    kind: str | None = None
    columns: str | Sequence[str] | None = None
    by: str | None = None
    unseen: Literal["refuse", "skip"] = "refuse"
    classes: Sequence[str] | None = None
    positive: str | None = None
    loss: str | None = None
    metrics: Sequence[str] | None = None
    where: str | None = None
    missing: Sequence[Any] = ()
    repeats: Literal["refuse", "first", "mean"] = "refuse"
    preference: float = 1.0
    weight: str | None = None
    group: str | None = None
    after: str | None = None


@dataclass(frozen=True, kw_only=True)
class SplitSpec:
    """How rows become train, valid and test rows.

    ``random``; ``stratified`` by a column, each value split alike; ``grouped`` by a column, whose
    values are kept together; ``time``, the earliest rows train; ``column``, as the column ``by``
    says, with ``names`` mapping its values to train, valid and test.
    """

    kind: SplitKind = "random"
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    by: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """All tables of a study.

    ``split`` None takes a column named ``split`` where a table has one, else a random split.
    ``intervals`` names the column whose values are the units of the bootstrap.
    """

    tables: Mapping[str, TableSpec]
    id: str | None = None
    split: SplitSpec | None = None
    intervals: str | None = None
