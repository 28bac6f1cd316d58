"""Labels: the values of target columns become tasks and their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import polars as pl

from plait.data.errors import DataError
from plait.data.facts import named
from plait.data.preparation import Route
from plait.data.profile import as_text
from plait.data.records import TaskLabels
from plait.data.sources import Table
from plait.data.stores import Array
from plait.data.targets import (
    Answers,
    Target,
    extras,
    kind_for,
    make_task,
    natural,
    numbers_for,
)
from plait.task import Task, TaskSet


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """All tasks with their labels, how they are asked for, and how many rows could have a label."""

    tasks: TaskSet
    labels: Mapping[str, TaskLabels]
    routes: Mapping[str, Route]
    possible: Mapping[str, int]
    facts: list[str]


@dataclass(frozen=True)
class _Gathered:
    tasks: list[Task] = field(default_factory=list)
    labels: dict[str, TaskLabels] = field(default_factory=dict)
    routes: dict[str, Route] = field(default_factory=dict)
    possible: dict[str, int] = field(default_factory=dict)
    facts: list[str] = field(default_factory=list)


def label(
    tables: Sequence[Table],
    targets: Sequence[Target],
    frames: Sequence[pl.DataFrame],
    splits: Sequence[Array],
    starts: Array,
    *,
    lenient: bool,
) -> Labelled:
    """The tasks and labels of all targets; rows are numbered over all tables from ``starts``.

    ``lenient`` skips values of ``by`` without training rows whatever is declared: a sample may have
    lost them. Raises :class:`DataError` for labels that do not fit, with file and row.
    """
    number = {table.name: place for place, table in enumerate(tables)}
    found = _Gathered()
    for target in targets:
        at = number[target.table.name]
        frame, split = frames[at], splits[at]
        values = frame[target.column]
        used = values.is_not_null().to_numpy() & (split >= 0)
        answers = Answers(
            rows=np.flatnonzero(used),
            values=values.filter(pl.Series(used)),
            train=split[used] == 0,
        )
        found.possible[target.task] = int((split >= 0).sum())
        own = _Own(target, answers, frame, int(starts[at]), lenient)
        if target.spec.by is None:
            _plain(found, own)
        else:
            _by_value(found, own)
    try:
        tasks = TaskSet(found.tasks)
    except ValueError as error:
        raise DataError(str(error)) from error
    possible = {name: count for name, count in found.possible.items() if name in found.labels}
    return Labelled(
        tasks=tasks, labels=found.labels, routes=found.routes, possible=possible, facts=found.facts
    )


@dataclass(frozen=True)
class _Own:
    """A target with what belongs to it: its answers, its table's columns and first row."""

    target: Target
    answers: Answers
    frame: pl.DataFrame
    start: int
    lenient: bool

    def task(self, name: str, kind: str, classes: tuple[str, ...], numbers: Array) -> Task:
        return make_task(self.target, name, kind, classes, numbers)

    def labels(self, task: Task, chosen: Array, numbers: Array) -> TaskLabels:
        """The task's labels among the answers at the places ``chosen``."""
        own = numbers[chosen]
        rows = self.answers.rows[chosen]
        truth = None
        match task.kind:
            case "real":
                target = ((own - task.center) / task.scale).astype(np.float32)
                truth = own
            case "classes" | "ordinal":
                target = own.astype(np.int64)
            case "counts":
                target, truth = own.astype(np.float32), own
            case _:
                target = own.astype(np.float32)
        more = extras(self.target, self.frame, rows)
        return TaskLabels(rows=rows + self.start, target=target, truth=truth, **more)


def _plain(found: _Gathered, own: _Own) -> None:
    target = own.target
    kind, classes = kind_for(target, own.answers)
    numbers = numbers_for(target, own.answers, kind, classes)
    task = own.task(target.task, kind, classes, numbers[own.answers.train])
    found.tasks.append(task)
    found.labels[task.name] = own.labels(task, np.arange(len(numbers)), numbers)
    route = found.routes.get(target.declared)
    names = {**(route.tasks if route else {}), task.name: task.name}
    found.routes[target.declared] = Route(table=target.table.name, tasks=names)


def _by_value(found: _Gathered, own: _Own) -> None:
    """One task for each value of a column, in the order of the values."""
    target, by = own.target, str(own.target.spec.by)
    kind, classes = kind_for(target, own.answers)
    numbers = numbers_for(target, own.answers, kind, classes)
    values = as_text(own.frame[by]).gather(own.answers.rows)
    if values.null_count():
        row = int(own.answers.rows[int(values.is_null().arg_max() or 0)])
        raise DataError(f"{target.table.where(row)}: {by!r} is missing, so its task is unknown")
    codes = values.rank("dense").to_numpy().astype(np.int64) - 1
    order = np.argsort(codes, kind="stable")
    edges = np.searchsorted(codes[order], np.arange(int(codes.max()) + 2))
    pieces = [order[low:high] for low, high in pairwise(edges)]
    known = {str(values[int(piece[0])]): piece for piece in pieces}
    names, skipped = {}, []
    for value in sorted(known, key=natural):
        piece, name = known[value], f"{target.task}[{value}]"
        train = own.answers.train[piece]
        if not train.any():
            if target.spec.unseen == "refuse" and not own.lenient:
                where = target.table.where(int(own.answers.rows[piece[0]]))
                raise DataError(
                    f"{where}: {by} {value!r} has no training row, so no task; stratify the split "
                    f"by {by}, or declare unseen: skip"
                )
            skipped.append(value)
            continue
        task = own.task(name, kind, classes, numbers[piece][train])
        found.tasks.append(task)
        found.labels[name] = own.labels(task, piece, numbers)
        found.possible[name] = len(piece)
        names[value] = name
    if skipped:
        found.facts.append(
            f"{target.task}: {len(skipped)} values of {by} have no training row and were skipped: "
            f"{named(skipped)}."
        )
    found.routes[target.declared] = Route(
        table=target.table.name, tasks=names, by=by, unseen=target.spec.unseen
    )
