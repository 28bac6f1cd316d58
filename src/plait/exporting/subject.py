"""What is exported: a model, the table whose columns it reads, its tasks, and rows to check on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor

from plait.batch import Records
from plait.comparing.model import Asked, Model
from plait.comparing.predictor import Predictor
from plait.data.inputs import Categorical, Encoding, Image, Items, Numeric, Text, Vector
from plait.data.preparation import Preparation
from plait.data.sources import Table
from plait.exporting.check import Array, ExportError
from plait.task import Task

CHECKED = 256  # rows that a written file is checked on


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model as it reads one table, with rows of it; ``real`` says whether a user gave them."""

    model: Model
    preparation: Preparation
    table: str
    tasks: Mapping[str, Task]
    rows: Table
    real: bool

    @classmethod
    def of(cls, predictor: Predictor, rows: Any = None, table: str | None = None) -> Self:
        """The model of a folder; ``rows`` is a table to check on, made up where there is none.

        ``table`` says which of the study's tables is read, where they have different columns.
        Raises :class:`ExportError` where that is open, ``DataError`` for rows that do not fit.
        """
        preparation = predictor.preparation
        source = None if rows is None else preparation.read(rows)
        if source is None:
            table = _only(preparation, table)
            source = preparation.read(made_up(preparation, table))
        table = preparation.match(source, table)
        schema = preparation.schema(table)
        wanted = {
            task
            for route in preparation.routes.values()
            if preparation.schema(route.table) == schema
            for task in route.tasks.values()
        }
        tasks = {task.name: task for task in predictor.model.tasks if task.name in wanted}
        for task in tasks.values():
            if task.place != "row":
                raise ExportError(
                    f"task {task.name!r} labels positions inside the rows; models of such tasks "
                    "are used through plait.load and plait predict"
                )
        if not tasks:
            raise ExportError(f"no task of the model is predicted from the table {table!r}")
        return cls(
            model=predictor.model, preparation=preparation, table=table, tasks=tasks,
            rows=_first(source), real=rows is not None,
        )  # fmt: skip

    @property
    def encodings(self) -> list[Encoding]:
        """The inputs that the table has."""
        keys = self.preparation.schema(self.table)
        return [each for each in self.preparation.encodings if each.input.key in keys]

    @property
    def columns(self) -> Mapping[str, tuple[str, ...]]:
        """The table's columns by role."""
        return self.preparation.roles[self.table]

    @property
    def ragged(self) -> dict[str, str]:
        """The inputs whose rows have differing numbers of tokens or items."""
        return {each.input.key: each.input.key for each in self.encodings if _ragged(each)}

    def part(self) -> dict[str, Tensor]:
        """The rows as a network reads them."""
        found = self.preparation.encode(self.rows, self.table)
        whole = {each.input.key: each.input.whole for each in self.encodings}
        return {key: v.long() if whole[key] else v.float() for key, v in found.items()}

    def predictions(self, part: Mapping[str, Tensor]) -> dict[str, Array]:
        """What the model itself gives for every task on every row."""
        found = self.model.predict({"rows": part}, self.asked(self.rows.rows))
        shaped: dict[str, Array] = {}
        for key, values in found.items():
            names = [name for name in self.model.tasks.groups[key].tasks if name in self.tasks]
            each = values.numpy().reshape(len(names), self.rows.rows, *values.shape[1:])
            shaped |= dict(zip(names, each, strict=True))
        return shaped

    def asked(self, rows: int) -> Asked:
        """Every task on every row."""
        found = {}
        for key, group in self.model.tasks.groups.items():
            own = [group.position[name] for name in group.tasks if name in self.tasks]
            if own:
                every = torch.arange(rows).repeat(len(own))
                found[key] = Records(torch.tensor(own).repeat_interleave(rows), every)
        return found


def _ragged(each: Encoding) -> bool:
    return each.input.shape == (-1,)


def _only(preparation: Preparation, table: str | None) -> str:
    if table is not None:
        return table
    columns = {tuple(sorted(roles.items())) for roles in preparation.roles.values()}
    if len(columns) > 1:
        raise ExportError(
            "the model reads tables with different columns, and one file reads one of them: "
            f"name it with --table ({', '.join(preparation.tables)})"
        )
    return preparation.tables[0]


def _first(source: Table) -> Table:
    chunk = next(source.chunks(source.columns, size=CHECKED))
    return replace(source, frame=chunk.frame.lazy(), rows=len(chunk), arrays=chunk.arrays)


def made_up(preparation: Preparation, table: str, rows: int = 64) -> Mapping[str, Any]:
    """Rows that a table could hold: numbers around the mean, known and unknown categories, gaps."""
    random = np.random.default_rng(0)
    roles = preparation.roles[table]
    keys = preparation.schema(table)
    found: dict[str, Any] = {}
    for each in preparation.encodings:
        if each.input.key in keys:
            for place, role in enumerate(each.roles):
                for column in roles.get(role, ()):
                    found[column] = _values(each, place, rows, random)
    if any(isinstance(value, np.ndarray) and value.ndim > 1 for value in found.values()):
        return found
    return pl.DataFrame(found)  # type: ignore[return-value]


def _values(each: Encoding, place: int, rows: int, random: np.random.Generator) -> Any:
    match each:
        case Numeric():
            numbers = each.center[place] + each.scale[place] * random.normal(size=rows)
            numbers[random.random(rows) < 0.1] = np.nan
            return numbers
        case Categorical():
            known: Sequence[str] = (*each.values[place][:200], "no such category")
            return np.array(random.choice(known, rows).tolist(), dtype=np.str_)
        case Items():
            known = (*each.values[:200], "no such item")
            return pl.Series(
                [random.choice(known, random.integers(1, 6)).tolist() for _ in range(rows)]
            )
        case Text():
            words = ["a", "few", "words", "of", "no", "meaning", "CCO", "7"]
            lengths = random.integers(1, 9, rows)
            return np.array([" ".join(random.choice(words, n)) for n in lengths], dtype=np.str_)
        case Image():
            return (random.random((rows, *each.shape)) * each.top).astype(np.float32)
        case Vector():
            return random.normal(size=(rows, each.width)).astype(np.float32)
    raise ExportError(f"inputs of type {each.input.type!r} cannot be exported")
