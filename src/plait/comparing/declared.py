"""What a study declares about its data, kept in the run so that any process can load them again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from plait.data.declare import DataSpec, SplitSpec, TableSpec, TaskSpec

if TYPE_CHECKING:
    from plait.data import Dataset


@dataclass(frozen=True, kw_only=True)
class Declared:
    """Tables, tasks and how texts are read; relative paths start at ``base``."""

    data: DataSpec
    tasks: Mapping[str, TaskSpec]
    text: Mapping[str, Any] = field(default_factory=dict)
    sample: float | None = None
    base: Path | None = None

    def load(self, split: int = 0, cache: Path | None = None) -> Dataset:
        """The data set, its rows split anew for every ``split``.

        Raises ``ValueError`` where the split is given by a column and cannot be drawn again.
        """
        from plait.data import load

        data = self.data if split == 0 else replace(self.data, split=self._split(split))
        return load(
            data, self.tasks, text=self.text, sample=self.sample, base=self.base, cache=cache
        )

    def _split(self, number: int) -> SplitSpec:
        given = self.data.split or SplitSpec()
        if given.kind in ("column", "time"):
            raise ValueError(f"seeds: a split by {given.kind} is always the same; leave split at 1")
        return replace(given, seed=given.seed + number)

    def kept(self, folder: Path) -> Self:
        """The same with tables that are objects written into a folder, and paths to them."""
        tables = {}
        for name, table in self.data.tables.items():
            source = table.source
            if not isinstance(source, (str, Path)):
                source = _keep(source, folder / name)
            tables[name] = replace(table, source=str(source))
        return replace(self, data=replace(self.data, tables=tables))

    def to_json(self, folder: Path) -> dict[str, Any]:
        """Plain data; paths are told from ``folder`` where they can be, so that both can move."""
        base = self.base or Path()
        tables = {}
        for name, table in self.data.tables.items():
            plain = asdict(table)
            plain["source"] = relative(base / table.source, folder)
            tables[name] = plain
        return {
            "data": {**asdict(replace(self.data, tables={})), "tables": tables},
            "tasks": {name: asdict(task) for name, task in self.tasks.items()},
            "text": {name: _text(given, base, folder) for name, given in self.text.items()},
            "sample": self.sample,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Self:
        """Read :meth:`to_json` back, paths starting at the same folder."""
        given = dict(data["data"])
        split = given.pop("split")
        tables = {name: TableSpec(**row) for name, row in given.pop("tables").items()}
        if split is not None:
            split = SplitSpec(**{**split, "fractions": tuple(split["fractions"])})
        return cls(
            data=DataSpec(tables=tables, split=split, **given),
            tasks={name: TaskSpec(**row) for name, row in data["tasks"].items()},
            text=data["text"],
            sample=data["sample"],
            base=folder,
        )


def _text(settings: Mapping[str, Any], base: Path, folder: Path) -> dict[str, Any]:
    pretrained = settings.get("pretrained")
    if pretrained and (base / pretrained).is_dir():
        return {**settings, "pretrained": relative(base / pretrained, folder)}
    return dict(settings)


def relative(path: Path, folder: Path) -> str:
    """A path as told from a folder; absolute where it lies on another drive."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return str(path.resolve())


def _keep(source: Any, stem: Path) -> Path:
    """Write a table that is an object: Parquet, or npz where it has arrays of many dimensions."""
    import numpy as np
    import polars as pl

    from plait.data.sources import read
    from plait.weights.files import replacing

    table = read(source, stem.name)
    frame = table.collect(list(table.schema))
    for column, names in table.classes.items():  # numbers in the data, names for people
        numbers = dict(enumerate(names))
        words = pl.col(column).replace_strict(numbers, default=None, return_dtype=pl.String)
        frame = frame.with_columns(words)
    if not table.arrays:
        path = stem.with_name(f"{stem.name}.parquet")
        with replacing(path) as temporary:
            frame.write_parquet(temporary)
        return path
    arrays: dict[str, Any] = dict(table.arrays)
    for name in frame.columns:
        values = frame[name]
        text = values.dtype == pl.String  # without pickle npz has no missing text
        arrays[name] = values.fill_null("").to_numpy().astype(str) if text else values.to_numpy()
    path = stem.with_name(f"{stem.name}.npz")
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    return path
