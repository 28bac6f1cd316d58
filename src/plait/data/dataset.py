"""A data set: encoded inputs, records by head group, and the split; gives any rows as a batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from plait.batch import Batch, Input, Labels
from plait.data.columns import Column
from plait.data.preparation import Preparation
from plait.data.records import UNDECLARED, RecordStore
from plait.data.stores import Array
from plait.data.tensors import Dense, Store
from plait.task import TaskSet

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(frozen=True)
class Stored:
    """One input's rows, and what to subtract from a row number for each table to find its place."""

    store: Store
    shift: Array


@dataclass(frozen=True, kw_only=True)
class Told:
    """What was found out about the data, in words."""

    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    columns: Sequence[Column] = ()


class Dataset:
    """The rows of all tables, one after another, with their records.

    ``split`` [R]: 0 train, 1 valid, 2 test, -1 unused. ``table`` [R]: the number of the row's
    table in ``tables``. ``units`` [R]: the bootstrap unit of each row. ``declared`` maps declared
    names to their tasks' names. ``columns`` says what every column is used for. Made by
    :func:`plait.data.load`.
    """

    def __init__(
        self,
        *,
        tasks: TaskSet,
        preparation: Preparation,
        stored: Mapping[str, Stored],
        schemas: Sequence[tuple[str, ...]],
        records: Mapping[str, RecordStore],
        split: Array,
        table: Array,
        ids: Callable[[], Array],
        units: Array,
        fingerprint: str,
        told: Told,
        reload: Callable[..., Dataset],
    ) -> None:
        self.tasks = tasks
        self.preparation = preparation
        self.inputs: Mapping[str, Input] = preparation.inputs
        self.tables = preparation.tables
        self.declared = preparation.declared
        self.split = torch.from_numpy(split)
        self.table = torch.from_numpy(table)
        self._ids = ids
        self.units = units
        self.facts = told.facts
        self.warnings = told.warnings
        self.columns = told.columns
        self.fingerprint = fingerprint
        self._stored = stored
        self._schemas = schemas  # the input keys of each table
        self._records = records
        self._told = told
        self._reload = reload
        self._origin: Dataset | None = None

    def __len__(self) -> int:
        return len(self.split)

    def __repr__(self) -> str:
        return f"Dataset({len(self):,} rows, {len(self.tasks)} tasks, {len(self.inputs)} inputs)"

    @cached_property
    def ids(self) -> Array:
        """The rows' ids as text, made when first asked for. [R]"""
        return self._ids()

    # -- labels ---------------------------------------------------------------------------------

    def rows(self, split: Split, task: str | None = None) -> Tensor:
        """The rows of a split that carry a label (of one task), ascending. [n]"""
        if task is not None:
            return torch.from_numpy(self._where(task, split)[1])
        return torch.from_numpy(self._labelled[self._split[self._labelled] == _number(split)])

    @cached_property
    def _split(self) -> Array:
        return self.split.numpy()

    @cached_property
    def _labelled(self) -> Array:
        has = np.zeros(len(self), dtype=bool)
        for records in self._records.values():
            has[records.row] = True
        return np.flatnonzero(has)

    def places(self, task: str, split: Split) -> Array:
        """The places of a task's records in its head group's store, ascending by row. [n]"""
        return self._where(task, split)[0]

    def _where(self, task: str, split: Split) -> tuple[Array, Array]:
        records = self._of(task)
        place = records.of_task(self._position(task))
        rows = records.row[place]
        keep = self._split[rows] == _number(split)
        return place[keep], rows[keep]

    def _of(self, task: str) -> RecordStore:
        return self._records[self.tasks[task].group]

    def _position(self, task: str) -> int:
        return self.tasks.groups[self.tasks[task].group].position[task]

    def labels(self, task: str, split: Split) -> Labels:
        """All records of a task in a split; ``rows`` are dataset rows."""
        place, rows = self._where(task, split)
        return self._of(task).labels(place, rows)

    def truth(self, task: str, split: Split) -> tuple[Array, Array, Array | None]:
        """A task's rows, targets in the user's units (class numbers for classes) and weights."""
        place, rows = self._where(task, split)
        records = self._of(task)
        weight = None if records.weight is None else records.weight[place]
        return rows, records.truth(place), weight

    def whose(self, task: str, split: Split) -> Array | None:
        """The groups of a task's rows, as numbers; -1 for nobody's, None where none is declared."""
        group = self._of(task).group
        place, _ = self._where(task, split)
        own = None if group is None else group[place]
        return None if own is None or (own == UNDECLARED).all() else own

    def counts(self, split: Split) -> dict[str, int]:
        """The number of labels of every task in a split."""
        found: dict[str, int] = {}
        for key, group in self.tasks.groups.items():
            records = self._records[key]
            here = records.task[self._split[records.row] == _number(split)]
            numbers = np.bincount(here, minlength=len(group.tasks)).tolist()
            found.update(zip(group.tasks, numbers, strict=True))
        return {name: found[name] for name in self.tasks.names}

    def summary(self) -> list[dict[str, Any]]:
        """For each task: its name, kind, labels per split and ranking metric."""
        counts = {split: self.counts(split) for split in SPLITS}
        return [
            {
                "name": task.name,
                "kind": task.kind,
                **{split: counts[split][task.name] for split in SPLITS},
                "metric": task.metrics[0],
            }
            for task in self.tasks
        ]

    # -- batches --------------------------------------------------------------------------------

    def batch(self, rows: Tensor, tasks: Collection[str] | None = None) -> Batch:
        """The given rows with all their records (of the named tasks).

        Rows of one schema form a part and keep their order; ``ids`` says which row is where.
        """
        ordered, parts = self._parts(rows.numpy())
        labels = {}
        for key, wanted in self._wanted(tasks):
            place, whose = self._records[key].of_rows(ordered, wanted)
            if len(place):
                labels[key] = self._records[key].labels(place, whose)
        return Batch(parts, labels, self.tasks, torch.from_numpy(ordered))

    def drawn(self, places: Mapping[str, Array]) -> Batch:
        """A batch of single records: for each head group places in its store, a row for each.

        A row drawn for two tasks appears twice, each time with the record it was drawn for.
        """
        keys = [key for key in self.tasks.groups if len(places.get(key, ()))]
        rows = np.concatenate([self._records[key].row[places[key]] for key in keys])
        order = self._order(rows)
        back = np.arange(len(rows))
        if order is not None:
            rows, back = rows[order], np.argsort(order)
        _, parts = self._parts(rows)
        labels, start = {}, 0
        for key in keys:
            place, records = places[key], self._records[key]
            whose = back[start : start + len(place)]
            by_task = np.lexsort((whose, records.task[place]))
            labels[key] = records.labels(place[by_task], whose[by_task])
            start += len(place)
        return Batch(parts, labels, self.tasks, torch.from_numpy(rows))

    def _wanted(self, tasks: Collection[str] | None) -> list[tuple[str, Array | None]]:
        if tasks is None:
            return [(key, None) for key in self.tasks.groups]
        names = frozenset(self.tasks[name].name for name in tasks)
        if names not in self._masks:
            self._masks[names] = [
                (key, np.array([name in names for name in group.tasks]))
                for key, group in self.tasks.groups.items()
                if names.intersection(group.tasks)
            ]
        return self._masks[names]

    @cached_property
    def _masks(self) -> dict[frozenset[str], list[tuple[str, Array | None]]]:
        return {}

    @cached_property
    def _parting(self) -> tuple[Array, list[tuple[str, tuple[str, ...]]]]:
        """The schema number of each table, and the name and input keys of each schema."""
        distinct = list(dict.fromkeys(self._schemas))
        of_table = np.array([distinct.index(keys) for keys in self._schemas])
        return of_table, [("+".join(keys), keys) for keys in distinct]

    def _order(self, rows: Array) -> Array | None:
        of_table, schemas = self._parting
        if len(schemas) == 1:
            return None
        return np.argsort(of_table[self.table.numpy()[rows]], kind="stable")

    def _parts(self, rows: Array) -> tuple[Array, dict[str, dict[str, Tensor]]]:
        order = self._order(rows)
        of_table, schemas = self._parting
        if order is None:
            return rows, {schemas[0][0]: self._part(rows, schemas[0][1])} if len(rows) else {}
        rows = rows[order]
        schema = of_table[self.table.numpy()[rows]]
        edges = np.searchsorted(schema, np.arange(len(schemas) + 1))
        parts = {
            name: self._part(rows[low:high], keys)
            for (name, keys), low, high in zip(schemas, edges, edges[1:], strict=False)
            if high > low
        }
        return rows, parts

    def _part(self, rows: Array, keys: tuple[str, ...]) -> dict[str, Tensor]:
        table = self.table.numpy()[rows] if len(self.tables) > 1 else None
        part = {}
        for key in keys:
            stored = self._stored[key]
            at = rows if table is None else rows - stored.shift[table]
            part[key] = stored.store.take(torch.from_numpy(at))
        return part

    # -- other data sets ------------------------------------------------------------------------

    def with_split(self, *, all_train: bool) -> Dataset:
        """The same data prepared anew: every row a training row, or split as declared."""
        return self._reload(all_train=all_train)

    def extra_inputs(self, extra: Mapping[str, Tensor]) -> Dataset:
        """The data set with frozen features under ``features.<role>``, each [R, width].

        In the parts they take the place of ``text.<role>`` and ``image.<role>``; ``inputs`` has
        both.
        """
        stored, inputs = dict(self._stored), dict(self.inputs)
        schemas = [list(keys) for keys in self._schemas]
        nowhere = np.zeros(len(self.tables), dtype=np.int64)
        for key, rows in extra.items():
            if len(rows) != len(self):
                raise ValueError(f"{key}: {len(rows)} rows of features for {len(self)} rows")
            role = key.partition(".")[2]
            replaced = {f"text.{role}", f"image.{role}"}
            stored[key] = Stored(Dense(rows), nowhere)
            inputs[key] = Input(key=key, type="features", shape=tuple(rows.shape[1:]))
            for keys in schemas:
                if replaced.intersection(keys) or not replaced.intersection(self.inputs):
                    keys[:] = [*(name for name in keys if name not in replaced), key]
        found = Dataset(
            tasks=self.tasks,
            preparation=self.preparation,
            stored=stored,
            schemas=[tuple(keys) for keys in schemas],
            records=self._records,
            split=self._split,
            table=self.table.numpy(),
            ids=self._ids,
            units=self.units,
            fingerprint=self.fingerprint,
            told=self._told,
            reload=self._reload,
        )
        found.inputs = inputs
        found._origin = self  # keeps the files of its inputs alive
        return found


def _number(split: str) -> int:
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; valid: {', '.join(SPLITS)}")
    return SPLITS.index(split)
