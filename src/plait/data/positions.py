"""Labels of positions: a class for each token of a sequence, a value for each pixel of an image.

They are kept as one array [n, ...] for a task. Where a position has no label there stands -1, in
arrays of numbers with fractions NaN; sequences are filled up with it to the longest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from plait.data.answers import means_nothing
from plait.data.errors import DataError
from plait.data.sequences import items_of, last
from plait.data.stores import Array
from plait.data.targets import Answers, Target, kind_for, numbers_for
from plait.task import Task

if TYPE_CHECKING:
    from plait.data.dataset import Stored
    from plait.data.labelling import Labelled
    from plait.data.preparation import Preparation
    from plait.data.reading import Rows


def token_labels(
    target: Target, answers: Answers
) -> tuple[Answers, str, tuple[str, ...], Array, Array]:
    """The kind, the classes and the class numbers [n, longest] of a task on tokens, and lengths.

    Rows of which no token has a label are left out. Raises :class:`DataError` with the row for
    labels that do not fit.
    """
    lengths, values = items_of(answers.values, target.table.place)
    there = values.is_not_null()
    if target.spec.missing:
        there &= means_nothing(target, values).not_()
    known = there.to_numpy()
    whose = np.repeat(np.arange(len(lengths)), lengths)
    each = Answers(
        rows=answers.rows[whose[known]],
        values=values.filter(there),
        train=answers.train[whose[known]],
    )
    kind, classes = kind_for(target, each)
    codes = np.full(len(values), -1, np.int16)
    codes[known] = numbers_for(target, each, kind, classes)
    cut, kept = last(lengths)
    padded = np.full((len(cut), int(cut.max(initial=1))), -1, np.int16)
    padded[np.arange(padded.shape[1]) < cut[:, None]] = codes[kept]
    some = (padded >= 0).any(1)
    found = Answers(
        rows=answers.rows[some], values=pl.Series(lengths[some]), train=answers.train[some]
    )
    return found, kind, classes, padded[some], lengths[some]


def check_positions(
    rows: Rows, found: Labelled, preparation: Preparation, stored: Mapping[str, Stored]
) -> None:
    """Refuse a table without one input whose positions are labelled, and rows that do not fit it.

    Raises :class:`DataError` with the first row that has not one label for each token.
    """
    from plait.data.tensors import Ragged

    targets = {target.task: target for target in rows.targets}
    for task in found.tasks:
        if task.place == "row":
            continue
        target, own = targets[task.name], found.labels[task.name]
        number = [table.name for table in rows.tables].index(target.table.name)
        start = int(rows.starts[number])
        key = _input(target, task, preparation)
        if task.place == "pixel":
            _same_size(target, own.target.shape[1:3], preparation.inputs[key].shape[1:])
            continue
        store, shift = stored[key].store, int(stored[key].shift[number])
        assert isinstance(store, Ragged)
        assert own.lengths is not None
        tokens = np.diff(store.indptr)[own.rows - shift]
        wrong = np.flatnonzero(tokens != last(own.lengths)[0])
        if len(wrong):
            at = int(wrong[0])
            raise DataError(
                f"{target.table.where(int(own.rows[at]) - start)}: task {task.name!r}: "
                f"{target.column!r} has {own.lengths[at]} labels for {tokens[at]} tokens; give one "
                "for each, empty where there is none",
                ("tasks", target.declared),
            )


def _same_size(target: Target, labels: tuple[int, ...], images: tuple[int, ...]) -> None:
    if labels != images:
        shown = [" × ".join(map(str, size)) for size in (labels, images)]
        raise DataError(
            f"{target.table.place}: task {target.task!r}: {target.column!r} is {shown[0]}, the "
            f"images are {shown[1]}; bring both to one size",
            ("tasks", target.declared),
        )


def _input(target: Target, task: Task, preparation: Preparation) -> str:
    """The key of the input whose positions a task labels."""
    types = {"token": "sequence", "pixel": "image"}
    wanted = types[task.place]
    keys = preparation.schema(target.table.name)
    having = [key for key in keys if preparation.inputs[key].type == wanted]
    if len(having) == 1:
        return having[0]
    shown = ", ".join(having) or "none"
    raise DataError(
        f"{target.table.place}: task {task.name!r} labels the {task.place}s of its "
        f"table's one input of type {wanted}; it has {shown}: declare types: {{COLUMN: {wanted}}}",
        ("tasks", target.declared),
    )
