"""Labels: the values of target columns become tasks and their records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import numpy as np
import polars as pl

from plait.data.answers import answered, extras, settle
from plait.data.chains import chained
from plait.data.errors import DataError
from plait.data.facts import named
from plait.data.pixels import pixel_labels
from plait.data.positions import token_labels
from plait.data.preparation import Route
from plait.data.profile import as_text
from plait.data.reading import Rows, repeated
from plait.data.records import TaskLabels
from plait.data.stores import Array, mix
from plait.data.targets import (
    Answers,
    Target,
    kind_for,
    make_task,
    natural,
    numbers_for,
)
from plait.task import KINDS, Task, TaskSet, kind_of


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


def label(rows: Rows, *, lenient: bool) -> Labelled:
    """The tasks and labels of all targets; rows are numbered over all tables.

    ``lenient`` skips values of ``by`` without training rows whatever is declared: a sample may have
    lost them. Raises :class:`DataError` for labels that do not fit, with file and row.
    """
    number = {table.name: place for place, table in enumerate(rows.tables)}
    repeats = [repeated(ids) for ids in rows.ids]
    found = _Gathered()
    for target in rows.targets:
        at = number[target.table.name]
        frame, split = rows.frames[at], rows.splits[at]
        if target.place == "pixel":
            found.possible[target.task] = int((split >= 0).sum())
            _of_pixels(found, rows, at)(target)
            continue
        there = answered(target, frame)
        used = there.to_numpy() & (split >= 0)
        answers = Answers(
            rows=np.arange(len(used), dtype=np.int32 if len(used) < 2**31 else np.int64)[used],
            values=frame[target.column].filter(pl.Series(used)),
            train=split[used] == 0,
        )
        found.possible[target.task] = int((split >= 0).sum())
        ids = rows.ids[at] if repeats[at] else None
        own = _Own(
            target, answers, frame, int(rows.starts[at]), lenient, split, ids,
            partial(rows.names, at),
        )  # fmt: skip
        if not answers.train.any():
            _unlabelled(own, there)
        if target.place != "row":
            _inside(found, own)
        elif target.spec.by is None:
            _plain(found, own)
        else:
            _by_value(found, own)
    found.facts.extend(chained(rows, found.tasks, found.labels))
    if not lenient:
        _unmeasurable(found, rows)
    try:
        tasks = TaskSet(found.tasks)
    except ValueError as error:
        raise DataError(str(error)) from error
    possible = {name: count for name, count in found.possible.items() if name in found.labels}
    return Labelled(
        tasks=tasks, labels=found.labels, routes=found.routes, possible=possible, facts=found.facts
    )


def _unmeasurable(found: _Gathered, rows: Rows) -> None:
    """Refuse, or skip, tasks without a label in a part of the split that has rows."""
    split = np.concatenate(rows.splits)
    parts = [(n, part) for n, part in ((1, "valid"), (2, "test")) if (split == n).any()]
    lacking = {
        name: part
        for name, own in found.labels.items()
        for n, part in reversed(parts)
        if not (split[own.rows] == n).any()
    }
    specs = {target.declared: target.spec for target in rows.targets}
    for declared, route in found.routes.items():
        several = specs[declared].by is not None or specs[declared].columns is not None
        # Of many tasks some may lack validation labels; without test labels none is measured.
        absent = [
            name
            for name in route.tasks.values()
            if name in lacking and not (several and lacking[name] == "valid")
        ]
        if not absent:
            continue
        if several and specs[declared].unseen == "skip" and len(absent) < len(route.tasks):
            left = {value: name for value, name in route.tasks.items() if name not in absent}
            found.routes[declared] = replace(route, tasks=left)
            found.tasks[:] = [task for task in found.tasks if task.name not in absent]
            for name in absent:
                del found.labels[name]
            found.facts.append(
                f"{declared}: {len(absent)} tasks lack labels in some part of the split and were "
                f"skipped: {named(absent)}."
            )
            continue
        raise DataError(
            f"{route.table}: no {lacking[absent[0]]} row has a label of {named(absent)}, so it "
            "cannot be measured; split otherwise (stratified, grouped), label some, or remove it"
            + (", or declare unseen: skip" if several else ""),
            ("tasks", declared),
        )


def _unlabelled(own: _Own, there: pl.Series) -> None:
    """Say why a target has no label to learn from."""
    target = own.target
    every = int(own.frame[target.column].is_not_null().sum())
    reason = f"the column {target.column!r} is empty"
    if every and not there.any() and target.condition is not None:
        reason = f"where {target.condition.text!r} holds for none of its {every:,} values"
    elif every and not there.any():
        reason = f"all of its {every:,} values are declared missing"
    elif every:
        reason = f"its {int(there.sum()):,} labels are all in other parts of the split"
    raise DataError(
        f"{target.table.place}: task {target.task!r} has no label in the training rows: {reason}; "
        "correct the declaration, or remove the task",
        ("tasks", target.declared),
    )


@dataclass(frozen=True)
class _Own:
    """A target with what belongs to it: its answers, its table's columns and first row."""

    target: Target
    answers: Answers
    frame: pl.DataFrame
    start: int
    lenient: bool
    split: Array
    ids: Array | None
    names: Callable[[], pl.Series]

    def settled(self, kind: str, keys: Array, numbers: Array) -> tuple[_Own, Array, str]:
        """With one label for each id and key, where ids repeat; and that in words."""
        if self.ids is None:
            return self, numbers, ""
        rows = self.answers.rows
        both = mix(self.ids[rows] + mix(keys.astype(np.uint64)))

        def names(places: Array) -> list[str]:
            return [str(name) for name in self.names().gather(rows[places])]

        found = settle(self.target, kind, both, numbers, self.split[rows], rows, names)
        if len(found.kept) == len(rows):
            return self, numbers, ""
        answers = Answers(
            rows=rows[found.kept],
            values=self.answers.values.gather(found.kept),
            train=self.answers.train[found.kept],
        )
        return replace(self, answers=answers), found.values, found.said

    def task(self, name: str, kind: str, classes: tuple[str, ...], numbers: Array) -> Task:
        return make_task(self.target, name, kind, classes, numbers)

    def labels(self, task: Task, chosen: Array | slice, numbers: Array) -> TaskLabels:
        """The task's labels among the answers at the places ``chosen``."""
        own = numbers[chosen]
        rows = self.answers.rows[chosen]
        truth = None
        kind = KINDS[task.kind]
        if kind.standardised:
            target = ((own - task.center) / task.scale).astype(np.float32)
        else:
            target = own.astype(np.int64 if kind.whole else np.float32)
        if not kind.labelled:
            truth = own
        more = extras(self.target, self.frame, rows)
        rows = rows + self.start if self.start else rows
        return TaskLabels(rows=rows, target=target, truth=truth, **more)


def _plain(found: _Gathered, own: _Own) -> None:
    target = own.target
    kind, classes = kind_for(target, own.answers)
    numbers = numbers_for(target, own.answers, kind, classes)
    own, numbers, said = own.settled(kind, np.zeros(len(numbers)), numbers)
    found.facts.extend([said] if said else [])
    task = own.task(target.task, kind, classes, numbers[own.answers.train])
    found.tasks.append(task)
    found.labels[task.name] = own.labels(task, slice(None), numbers)
    route = found.routes.get(target.declared)
    names = {**(route.tasks if route else {}), task.name: task.name}
    found.routes[target.declared] = Route(table=target.table.name, tasks=names)


def _of_pixels(found: _Gathered, rows: Rows, at: int) -> Callable[[Target], None]:
    """Tasks on the pixels of a table's images."""
    frame, split, start = rows.frames[at], rows.splits[at], int(rows.starts[at])

    def take(target: Target) -> None:
        spec = target.spec
        if spec.by is not None or spec.after is not None or repeated(rows.ids[at]):
            raise DataError(
                f"{target.table.place}: task {target.task!r} labels pixels; it takes neither by "
                "nor after, and one row for each id",
                ("tasks", target.declared),
            )
        there = np.ones(len(split), dtype=bool)
        if target.condition is not None:
            expression = target.condition.expression(frame.schema)
            there = frame.select(expression).to_series().to_numpy()
        own, values, classes = pixel_labels(target, split, there, rows.keep[at])
        if not (split[own] == 0).any():
            raise DataError(
                f"{target.table.place}: task {target.task!r} has no label in the training rows",
                ("tasks", target.declared),
            )
        kind = kind_of(str(spec.kind)).name
        task = make_task(target, target.task, kind, classes, values)
        found.tasks.append(task)
        found.labels[task.name] = TaskLabels(
            rows=own + start, target=values, **extras(target, frame, own)
        )
        route = found.routes.get(target.declared)
        names = {**(route.tasks if route else {}), task.name: task.name}
        found.routes[target.declared] = Route(table=target.table.name, tasks=names)

    return take


def _inside(found: _Gathered, own: _Own) -> None:
    """A task on the positions inside the rows."""
    target = own.target
    if own.ids is not None or target.spec.by is not None or target.spec.after is not None:
        raise DataError(
            f"{target.table.place}: task {target.task!r} labels {target.place}s; it takes neither "
            "by nor after, and one row for each id",
            ("tasks", target.declared),
        )
    answers, kind, classes, codes, lengths = token_labels(target, own.answers)
    if not answers.train.any():
        _unlabelled(own, own.frame[target.column].is_not_null())
    task = own.task(target.task, kind, classes, codes)
    more = extras(target, own.frame, answers.rows)
    rows = answers.rows + own.start if own.start else answers.rows
    found.tasks.append(task)
    found.labels[task.name] = TaskLabels(rows=rows, target=codes, lengths=lengths, **more)
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
    own, numbers, said = own.settled(kind, codes, numbers)
    if said:
        found.facts.append(said)
        values = as_text(own.frame[by]).gather(own.answers.rows)
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
