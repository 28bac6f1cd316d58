"""Sources: whatever holds rows becomes a table of columns and arrays, read in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plait.data.csv_files import CsvRows, scan_csv
from plait.data.errors import DataError
from plait.data.stores import Array
from plait.method import did_you_mean

CHUNK = 32_768  # rows, fewer of wide tables:
CELLS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some rows of a table: ``rows`` [n] numbers in the table, columns and arrays of those rows."""

    rows: Array
    frame: pl.DataFrame
    arrays: Mapping[str, Array]
    table: Table

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> pl.Series | Array:
        """A column's values [n] or array [n, ...]."""
        return self.arrays[name] if name in self.arrays else self.frame[name]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns (lazy) and arrays of the same rows.

    ``place`` and ``files`` are how errors name rows; ``numbers`` are the rows' own numbers where
    only some are kept. ``classes`` names the values of class columns.
    """

    name: str
    frame: pl.LazyFrame | CsvRows
    rows: int
    place: str
    schema: Mapping[str, pl.DataType]
    arrays: Mapping[str, Array] = field(default_factory=dict)
    files: Sequence[tuple[str, int]] = ()
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    folder: Path | None = None
    numbers: Array | None = None

    @property
    def columns(self) -> list[str]:
        """All names: scalar columns, then arrays."""
        return [*self.schema, *self.arrays]

    def where(self, row: int) -> str:
        """A row as errors name it: its file, and its number there, counted from 1."""
        if self.numbers is not None:
            row = int(self.numbers[row])
        for file, rows in self.files:
            if row < rows:
                return f"{file}, row {row + 1}"
            row -= rows
        return f"{self.place}, row {row + 1}"

    def need(self, column: str, use: str) -> str:
        """The column's name; :class:`DataError` with the nearest name if the table lacks it."""
        if column not in self.schema and column not in self.arrays:
            raise DataError(
                f"{self.place}: no column {column!r} for {use}{did_you_mean(column, self.columns)}"
            )
        return column

    def collect(self, columns: Sequence[str]) -> pl.DataFrame:
        """Whole columns in memory."""
        if not columns:
            return pl.DataFrame(height=self.rows)
        if isinstance(self.frame, CsvRows):
            return pl.concat(self.frame.batches(columns))
        return self.frame.select(columns).collect(engine="streaming")

    def chunks(
        self, columns: Sequence[str], keep: Array | None = None, size: int | None = None
    ) -> Iterator[Chunk]:
        """The rows where ``keep`` is true, in order and in bounded memory."""
        size = size or max(256, min(CHUNK, CELLS // max(len(columns), 1)))
        names = [name for name in columns if name in self.schema]
        arrays = {name: self.arrays[name] for name in columns if name in self.arrays}
        start = 0
        for frame in self._frames(names, size):
            rows = np.arange(start, start + len(frame))
            start += len(frame)
            if keep is not None:
                chosen = keep[rows]
                if not chosen.any():
                    continue
                rows, frame = rows[chosen], frame.filter(pl.Series(chosen))
            part = {name: values[rows] for name, values in arrays.items()}
            yield Chunk(rows=rows, frame=frame, arrays=part, table=self)

    def _frames(self, names: list[str], size: int) -> Iterator[pl.DataFrame]:
        if not names:
            for start in range(0, self.rows, size):
                yield pl.DataFrame(height=min(size, self.rows - start))
            return
        if isinstance(self.frame, CsvRows):
            batches = self.frame.batches(names)
        else:
            lazy = self.frame.select(names)
            batches = lazy.collect_batches(chunk_size=size, engine="streaming")
        for frame in batches:
            for start in range(0, len(frame), size):
                yield frame.slice(start, size)


Blanks = Callable[[str], Sequence[str]]


def _none(_: str) -> Sequence[str]:
    return ()


def read(
    source: Any,
    name: str,
    base: Path | None = None,
    text: Sequence[str] = (),
    blanks: Blanks = _none,
) -> Table:
    """A table from a path (globs allowed) to Parquet, CSV or npz, or from an object.

    ``text`` columns of a CSV stay text whatever they look like (ids, declared categories);
    ``blanks`` gives the words that mean "missing" in a column of a CSV. Raises :class:`DataError`
    for what cannot be read, with file and row.
    """
    if isinstance(source, (str, Path)):
        return _file(str(source), name, base, text, blanks)
    if isinstance(source, pl.LazyFrame):
        return _lazy(source, name, f"table {name!r}")
    if isinstance(source, Mapping):
        if source and all(_is_hub(value) for value in source.values()):
            return _hub_splits(source, name)
        return _arrays(source, name, f"table {name!r}")
    if _is_hub(source):
        return _hub(source, name)
    return _frame(_as_frame(source, name), name, f"table {name!r}")


def _as_frame(source: Any, name: str) -> pl.DataFrame:
    if isinstance(source, pl.DataFrame):
        return source
    if type(source).__module__.partition(".")[0] == "pandas":
        named = source.rename(columns=str)
        return pl.from_pandas(named, nan_to_null=True)
    if hasattr(source, "__arrow_c_stream__"):
        return pl.DataFrame(source)
    raise DataError(
        f"table {name!r}: cannot read a {type(source).__name__}; give a path, or a polars, pandas, "
        "Arrow or datasets table, or a dict of arrays"
    )


def _frame(frame: pl.DataFrame, name: str, place: str, **more: Any) -> Table:
    found = _lazy(frame.lazy(), name, place, rows=len(frame), **more)
    if not found.schema and not found.arrays:
        raise DataError(f"{place}: no columns")
    return found


def _lazy(
    frame: pl.LazyFrame, name: str, place: str, rows: int | None = None, **more: Any
) -> Table:
    schema = frame.collect_schema()
    floats = [column for column, dtype in schema.items() if dtype.is_float()]
    if floats:
        frame = frame.with_columns(pl.col(floats).fill_nan(None))  # NaN is how others say missing
    if rows is None:
        rows = int(frame.select(pl.len()).collect(engine="streaming").item())
    if rows == 0:
        raise DataError(f"{place}: no rows")
    return Table(name=name, frame=frame, rows=rows, place=place, schema=dict(schema), **more)


def _file(source: str, name: str, base: Path | None, text: Sequence[str], blanks: Blanks) -> Table:
    path = Path(source).expanduser()
    path = base / path if base and not path.is_absolute() else path
    # A file whose name holds [ or * is itself, not a pattern.
    paths = [str(path)] if path.exists() else sorted(glob(str(path)))  # noqa: PTH207
    if not paths:
        near = [each.name for each in path.parent.glob("*")] if path.parent.is_dir() else []
        hint = "" if has_magic(str(path)) else did_you_mean(path.name, near)
        declared = ("data", "tables", name, "path")
        raise DataError(f"table {name!r}: no file {source!r}{hint}", declared)
    files = [Path(each) for each in paths]
    for file in files:
        if file.is_dir():
            raise DataError(
                f"table {name!r}: {file.name} is a folder; give a file, or a pattern such as "
                f"{file.name}/*.parquet"
            )
    place = source if len(files) > 1 else files[0].name
    kinds = {_format(file) for file in files}
    if len(kinds) > 1:
        raise DataError(f"table {name!r}: {source!r} matches files of several formats")
    kind = kinds.pop()
    folder = files[0].parent
    if kind == "csv":
        rows = scan_csv(files, text, blanks)
        if not any(rows.counts):
            raise DataError(f"{place}: no rows below the header")
        return Table(
            name=name, frame=rows, rows=sum(rows.counts), place=place, schema=dict(rows.types),
            files=[(file.name, count) for file, count in zip(files, rows.counts, strict=True)],
            folder=folder,
        )  # fmt: skip
    if kind == "npz":
        if len(files) > 1:
            raise DataError(f"table {name!r}: give one npz file, not a pattern")
        return _npz(files[0], name)
    return _parquet(files, name, place)


def _format(file: Path) -> str:
    match file.suffix.lower():
        case ".parquet" | ".pq":
            return "parquet"
        case ".csv" | ".tsv" | ".txt":
            return "csv"
        case ".npz":
            return "npz"
    raise DataError(
        f"{file.name}: unknown format {file.suffix!r}; give Parquet (.parquet), CSV (.csv) or npz"
    )


def _parquet(files: list[Path], name: str, place: str) -> Table:
    counts = []
    for file in files:
        try:
            counts.append(int(pl.scan_parquet(file, glob=False).select(pl.len()).collect().item()))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"{file.name}: not a readable Parquet file: {error}") from error
    frame = pl.scan_parquet(files, glob=False)
    try:
        return _lazy(
            frame, name, place, sum(counts), folder=files[0].parent,
            files=[(file.name, count) for file, count in zip(files, counts, strict=True)],
        )  # fmt: skip
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{place}: the files do not fit together: {error}") from error


def _npz(file: Path, name: str) -> Table:
    try:
        with np.load(file, allow_pickle=False) as archive:
            found = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{file.name}: not a readable npz file of plain arrays: {error}") from error
    return _arrays(found, name, file.name, folder=file.parent)


def _arrays(source: Mapping[Any, Any], name: str, place: str, **more: Any) -> Table:
    flat, arrays = {}, {}
    for column, values in source.items():
        array = _as_array(values, str(column), place)
        if array.ndim == 0:
            raise DataError(f"{place}: {column!r} is a single value, not a column")
        if array.ndim == 1:
            flat[str(column)] = pl.Series(str(column), array)
        else:
            arrays[str(column)] = array
    lengths = {column: len(values) for column, values in (flat | arrays).items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{column} {length}" for column, length in lengths.items())
        raise DataError(f"{place}: arrays of differing lengths: {shown}")
    if not lengths:
        raise DataError(f"{place}: no arrays")
    rows = next(iter(lengths.values()))
    frame = pl.DataFrame(flat) if flat else pl.DataFrame(height=rows)
    return _lazy(frame.lazy(), name, place, rows, arrays=arrays, **more)


def _as_array(values: Any, column: str, place: str) -> Array:
    if hasattr(values, "detach"):  # a torch tensor
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    listed = isinstance(values, (list, tuple)) and array.dtype.kind == "U"
    if array.dtype == object or (listed and not all(isinstance(each, str) for each in values)):
        try:
            return np.asarray(pl.Series(values=list(values), strict=True).to_numpy())
        except (TypeError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{place}: {column!r} mixes values of several types; give numbers, or text"
            ) from error
    return array


def _is_hub(source: Any) -> bool:
    return type(source).__module__.partition(".")[0] == "datasets" and hasattr(source, "to_polars")


def _hub(source: Any, name: str) -> Table:
    classes = {
        column: tuple(feature.names)
        for column, feature in source.features.items()
        if type(feature).__name__ == "ClassLabel"
    }
    return _frame(source.to_polars(), name, f"table {name!r}", classes=classes)


def _hub_splits(source: Mapping[Any, Any], name: str) -> Table:
    """A dict of data sets by split is one table with a column ``split``."""
    tables = {str(split): _hub(part, name) for split, part in source.items()}
    frames = [
        table.collect(list(table.schema)).with_columns(pl.lit(split).alias("split"))
        for split, table in tables.items()
    ]
    try:
        together = pl.concat(frames)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"table {name!r}: the splits differ in their columns: {error}") from error
    return _frame(together, name, f"table {name!r}", classes=next(iter(tables.values())).classes)
