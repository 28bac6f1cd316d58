"""A survey: everything that can be known of a study's data without encoding or keeping them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plait.data.columns import Column
from plait.data.declare import DataSpec, TaskSpec
from plait.data.errors import DataError
from plait.data.facts import label_counts, pair_counts
from plait.data.fitting import fit_inputs, text_form
from plait.data.labelling import label
from plait.data.looking import look, told
from plait.data.preparation import Preparation
from plait.data.reading import Rows, read_rows
from plait.data.splits import bootstrap_units
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a study's data are: tasks, columns, facts and warnings.

    ``declared`` maps declared names to their tasks' names. ``counts`` are each task's labels in
    train, valid and test; ``pairs`` the rows labelled for both of two tasks (few tasks only).
    """

    tasks: TaskSet
    declared: Mapping[str, tuple[str, ...]]
    rows: int
    columns: Sequence[Column]
    facts: Sequence[str]
    warnings: Sequence[str]
    counts: Mapping[str, tuple[int, int, int]]
    pairs: Mapping[tuple[str, str], int]

    def summary(self) -> list[dict[str, Any]]:
        """For each task: its name, kind, labels per split and ranking metric."""
        return [
            {
                "name": task.name, "kind": task.kind,
                **dict(zip(("train", "valid", "test"), self.counts[task.name], strict=True)),
                "metric": task.metrics[0],
            }
            for task in self.tasks
        ]  # fmt: skip


def survey(
    data: DataSpec,
    tasks: Mapping[str, TaskSpec],
    *,
    text: str | Mapping[str, Any] | None = None,
    sample: float | None = None,
    base: Path | None = None,
) -> Survey:
    """Check the data as :func:`plait.data.load` does, in bounded memory and without encoding texts.

    Raises :class:`DataError` for everything that would stop a study.
    """
    try:
        rows = read_rows(data, tasks, sample, base, all_train=False)
        labelled = label(rows, lenient=sample is not None)
        if data.intervals is not None:
            bootstrap_units(rows.tables, rows.frames, data.intervals)  # they must be there
        rows = _slim(rows)
        fitted = fit_inputs(
            rows.tables, data.tables, rows.reserved, rows.labels, rows.fit, text_form(text), base
        )
        preparation = Preparation.of(fitted, rows.tables, labelled.routes)
        found = look(rows, preparation, fitted.columns, None, encode=False)
        facts, warnings = told(rows, labelled, fitted, found)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"the data cannot be read: {error}") from error
    split = np.concatenate(rows.splits)
    return Survey(
        tasks=labelled.tasks,
        declared=preparation.declared,
        rows=len(split),
        columns=fitted.columns,
        facts=facts,
        warnings=warnings,
        counts=label_counts(labelled.labels, split),
        pairs=pair_counts(labelled.labels, len(split)),
    )


def _slim(rows: Rows) -> Rows:
    """The rows without what only the labels needed."""
    by = {target.spec.by for target in rows.targets}
    frames = [frame.select(name for name in frame.columns if name in by) for frame in rows.frames]
    return replace(rows, frames=frames, ids=[None] * len(rows.ids))
