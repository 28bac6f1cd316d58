"""A saved model with its preprocessing inside: tables in, tables of predictions out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
from torch import Tensor

import plait
from plait.batch import Records
from plait.comparing.card import card
from plait.comparing.folders import (
    check_format,
    check_inputs,
    check_routes,
    read_object,
    refuse_others,
    sound,
)
from plait.comparing.model import Model, cut, load_model
from plait.data.errors import DataError
from plait.data.preparation import Preparation, Route
from plait.task import Task
from plait.weights.files import (
    MANIFEST,
    digest,
    discard,
    publish,
    published,
    temporary_beside,
    verify,
    write_atomic,
    write_json,
)

if TYPE_CHECKING:
    from plait.data.sources import Table

ROWS = 4096  # rows predicted at once
PREPARATION = 1  # the version of preparation.json


class Predictor:
    """A model that reads the same columns as the tables it was trained on."""

    def __init__(self, model: Model, preparation: Preparation, about: Mapping[str, Any]) -> None:
        self.model = model
        self.preparation = preparation
        self.about = dict(about)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks."""
        return self.model.tasks.names

    def __repr__(self) -> str:
        return f"Predictor({self.about.get('words', self.model.sort)}; {len(self.tasks)} tasks)"

    def predict(self, frame: Any, table: str | None = None) -> pl.DataFrame:
        """One row of predictions for each row of a table (anything a study reads, or a path).

        Binary tasks: the probability of the positive class. Classes and ordinal: the label in a
        column of the task's name, and the probability of each class in ``<task>.<class>``. Real
        targets: the value in their own units. Counts: the rate. Tasks named by a column give one
        column under their declared name. ``table`` says whose columns the rows have, where the
        model knows several tables. Unknown categories are read as unknown, further columns not at
        all. Raises :class:`plait.data.DataError` for missing columns, types that do not fit, and
        values of the naming column that no task has.
        """
        source = self.preparation.read(frame)
        name = self.preparation.match(source, table)
        _check_types(self.preparation, name, source)
        routes = dict(self._routes(name, source))
        try:
            part = self.preparation.encode(source, name)
            asked = self.preparation.asked(source, self.model.tasks, list(routes))
        except pl.exceptions.PolarsError as error:
            said = str(error).splitlines()[0]
            raise DataError(f"{source.place}: the rows cannot be read: {said}") from error
        found = self._predicted(part, asked, source.rows)
        columns: dict[str, pl.Series] = {}
        for declared, route in routes.items():
            if route.by is None:
                for task in route.tasks.values():
                    if task in self.tasks:
                        columns |= _columns(task, [self.model.tasks[task]], found, source.rows)
            else:
                named = [self.model.tasks[t] for t in route.tasks.values() if t in self.tasks]
                columns |= _columns(declared, named, found, source.rows)
        return pl.DataFrame(columns)

    def _routes(self, table: str, source: Table) -> Iterator[tuple[str, Route]]:
        """What can be asked of rows with the columns of a table."""
        schema = self.preparation.schema(table)
        for declared, route in self.preparation.routes.items():
            known = any(task in self.tasks for task in route.tasks.values())
            if known and self.preparation.schema(route.table) == schema:
                if route.by is not None and route.table != table and route.by not in source.columns:
                    continue
                yield declared, route

    def _predicted(
        self, part: Mapping[str, Tensor], asked: Mapping[str, Records], rows: int
    ) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """Rows and predictions of every task."""
        import torch

        pieces: dict[str, list[tuple[Any, Any]]] = {}
        parts = {"rows": part}
        most = self.model.tasks.at_once(ROWS)
        for start in range(0, rows, most):
            here = torch.arange(start, min(start + most, rows))
            own = {}
            for group, records in asked.items():
                inside = (records.rows >= start) & (records.rows < start + len(here))
                if inside.any():
                    own[group] = records.select(inside)
            small, wanted = cut(parts, own, here, rows)
            for group, values in self.model.predict(small, wanted).items():
                names = self.model.tasks.groups[group].tasks
                numbers = own[group].task.numpy()
                for position in np.unique(numbers):
                    mine = numbers == position
                    found = (own[group].rows.numpy()[mine], values.numpy()[mine])
                    pieces.setdefault(names[position], []).append(found)
        return {
            task: (np.concatenate([r for r, _ in found]), _joined([v for _, v in found]))
            for task, found in pieces.items()
        }

    def save(self, folder: str | Path) -> Path:
        """Write the model, its preprocessing and a README, sealed with their hashes."""
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()) and not (folder / "model.json").exists():
            raise ValueError(f"{folder} is not empty and holds no model; give another folder")
        fresh = temporary_beside(folder)
        fresh.mkdir(parents=True)
        try:
            write_files(fresh, self.model, self.preparation, self.about)
            publish(fresh)
            discard(folder)
            fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a model back; :class:`DamagedError` says what is wrong with the folder."""
        folder = Path(folder)
        if not (folder / "model.json").exists() and (folder / "model" / "model.json").exists():
            folder = folder / "model"
        refuse_others(folder)
        if published(folder):
            with sound(folder / MANIFEST):
                verify(folder)
        model = load_model(folder)
        path = folder / "preparation.json"
        told = read_object(path)
        check_format(path, told, "version", PREPARATION)
        with sound(path):
            preparation = Preparation.from_json(told)
            check_inputs(path, preparation.inputs, model.inputs())
            check_routes(path, preparation, model.tasks.names)
        return cls(model, preparation, read_object(folder / "about.json"))


def _check_types(preparation: Preparation, name: str, source: Table) -> None:
    """Refuse columns whose type cannot be what a role reads; values are checked as they are read.

    Raises :class:`plait.data.DataError` naming the column.
    """
    keys = preparation.schema(name)
    for each in preparation.encodings:
        kind = _READ.get(each.input.type)
        if kind is None or each.input.key not in keys:
            continue
        columns = [c for role in each.roles for c in preparation.roles[name].get(role, ())]
        for column in columns:
            dtype = source.schema.get(column)
            flat = dtype is not None and not (dtype.is_nested() or dtype in (pl.Binary, pl.Object))
            if not flat:
                has = "an array" if dtype is None else f"of type {dtype}"
                raise DataError(
                    f"{source.place}: column {column!r} is {has} where the model reads {kind}"
                )


_READ = {"numeric": "numbers", "categorical": "categories", "hashed": "ids", "text": "text"}


def load(folder: str | Path) -> Predictor:
    """The model in a folder, ready to predict: ``plait.load("model").predict(table)``.

    Raises :class:`plait.weights.files.DamagedError` where the folder holds no whole model.
    """
    return Predictor.load(folder)


def write_files(
    folder: Path,
    model: Model,
    preparation: Preparation,
    about: Mapping[str, Any],
    frozen: Path | None = None,
) -> None:
    """The files of a model's folder, without the seal; ``about`` holds its recipe and words."""
    model.save(folder, frozen)
    write_json(folder / "preparation.json", preparation.to_json())
    write_json(folder / "about.json", {"plait": plait.__version__, **about})
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {path.relative_to(folder).as_posix(): digest(path) for path in paths}
    write_atomic(folder / "README.md", card(model, preparation, about, hashes).encode())


def _columns(
    name: str,
    tasks: list[Task],
    found: Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]],
    rows: int,
) -> dict[str, pl.Series]:
    """The columns of tasks whose predictions stand under one name; null where none was asked."""
    kind = tasks[0]
    if kind.place != "row":
        return {name: _inside(name, kind, found, rows)}
    if not kind.named:
        values = np.full(rows, np.nan)
        for task in tasks:
            if task.name in found:
                where, value = found[task.name]
                values[where] = value
        return {name: pl.Series(name, values).fill_nan(None)}
    shares = np.full((rows, len(kind.classes)), np.nan)
    labels: np.ndarray[Any, Any] = np.full(rows, None, dtype=object)
    for task in tasks:
        if task.name in found:
            where, value = found[task.name]
            shares[where] = value
            labels[where] = np.array(task.classes, dtype=object)[value.argmax(1)]
    columns = {name: pl.Series(name, labels.tolist(), dtype=pl.String)}
    for number, label in enumerate(kind.classes):
        own = f"{name}.{label}"
        columns[own] = pl.Series(own, shares[:, number]).fill_nan(None)
    return columns


def _joined(found: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Predictions of several pieces of rows, sequences filled up with NaN to the longest."""
    shape = tuple(max(sizes) for sizes in zip(*(each.shape[1:] for each in found), strict=True))
    wider = [
        each if each.shape[1:] == shape else np.pad(
            each,
            [(0, 0), *((0, most - size) for most, size in zip(shape, each.shape[1:], strict=True))],
            constant_values=np.nan,
        )
        for each in found
    ]  # fmt: skip
    return np.concatenate(wider)


def _inside(
    name: str,
    task: Task,
    found: Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]],
    rows: int,
) -> pl.Series:
    """A list for each row: what its positions are; null where none was asked."""
    values: list[Any] = [None] * rows
    classes = np.array(task.classes, dtype=object)
    where, every = found.get(task.name, (np.zeros(0, int), np.zeros(0)))
    for row, own in zip(where.tolist(), every, strict=True):
        there = own[~np.isnan(own).any(-1)] if task.place == "token" else own
        values[row] = classes[there.argmax(-1)].tolist() if task.named else there.tolist()
    return pl.Series(name, values)
