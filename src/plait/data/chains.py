"""Chains of labels: a task that comes ``after`` another is negative wherever that one is.

Nothing is bought without a click. Where ``click`` is 0, ``buy`` (``after: click``) is 0, whether
the column says so or says nothing; where ``click`` is 1, the column alone says. So the labels of
every link lie on all rows of the first, and the probability of ``buy`` is that of click and
purchase, learnt and judged without the bias of looking at clicked rows only. Who wants the
probability given the click declares ``where: click == 1`` instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.data.answers import extras
from plait.data.declare import TaskSpec
from plait.data.errors import DataError
from plait.data.records import TaskLabels
from plait.data.stores import Array
from plait.data.targets import Target
from plait.method import did_you_mean
from plait.task import Task, TaskSet

if TYPE_CHECKING:
    from plait.data.reading import Rows


def check_chains(tasks: Mapping[str, TaskSpec]) -> None:
    """Refuse an ``after`` that names no single task, or that stands with what it cannot join."""
    for name, spec in tasks.items():
        if spec.after is None:
            continue
        if spec.after not in tasks:
            raise _wrong(name, f"no task {spec.after!r}{did_you_mean(spec.after, tasks)}")
        for each in (name, spec.after):
            if tasks[each].columns is not None or tasks[each].by is not None:
                raise _wrong(name, f"{each!r} is several tasks; declare those of a chain singly")
            if tasks[each].repeats != "refuse":
                raise _wrong(name, f"the labels of {each!r} are settled by id; remove repeats")


def _wrong(name: str, message: str) -> DataError:
    return DataError(f"task {name!r}: after: {message}", ("tasks", name, "after"))


def chained(rows: Rows, tasks: Sequence[Task], labels: dict[str, TaskLabels]) -> list[str]:
    """Give every task that comes after another its negatives; what was done, in words.

    Raises :class:`DataError` for chains over several tables, in circles or through other kinds, and
    for a row that is positive although the task before is negative.
    """
    if not any(task.after for task in tasks):
        return []
    try:
        found = TaskSet(tasks)
    except ValueError as error:
        raise DataError(str(error)) from error
    targets = {target.task: target for target in rows.targets}
    facts = []
    for name in sorted(found.names, key=lambda name: len(found.before(name))):
        if found[name].after:
            own, before = targets[name], targets[found[name].after]
            if own.table.name != before.table.name:
                raise _wrong(name, f"{before.task!r} is in another table, {before.table.name!r}")
            labels[name], added = _filled(rows, own, labels[name], labels[before.task], before.task)
            if added:
                facts.append(f"{name}: {added:,} rows without {before.task} count as negative.")
    return facts


def _filled(
    rows: Rows, target: Target, own: TaskLabels, before: TaskLabels, earlier: str
) -> tuple[TaskLabels, int]:
    """The labels with a 0 on every row where the earlier task's is 0, and how many were added."""
    number = [table.name for table in rows.tables].index(target.table.name)
    start = int(rows.starts[number])
    negative = before.rows[before.target == 0]
    wrong = np.intersect1d(own.rows[own.target == 1], negative)
    if len(wrong):
        raise DataError(
            f"{target.table.where(int(wrong[0]) - start)}: task {target.task!r} is positive, but "
            f"{earlier!r}, which it comes after, is negative; correct the row, or remove after",
            ("tasks", target.declared, "after"),
        )
    added = np.setdiff1d(negative, own.rows)
    more: dict[str, Any] = extras(target, rows.frames[number], added - start)
    order = np.argsort(np.concatenate([own.rows, added]), kind="stable")

    def joined(old: Array | None, new: Array | None) -> Array | None:
        return None if old is None or new is None else np.concatenate([old, new])[order]

    every = np.concatenate([own.rows, added])[order]
    target_ = np.concatenate([own.target, np.zeros(len(added), own.target.dtype)])[order]
    return replace(
        own,
        rows=every,
        target=target_,
        weight=joined(own.weight, more.get("weight")),
        group=joined(own.group, more.get("group")),
    ), len(added)
