"""Targets in whatever they came in, read as columns; predictions given back in the same."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import polars as pl

from plait.data.errors import DataError
from plait.data.sources import read

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Form:
    """What y came in: ``library`` numpy, pandas or polars; ``flat`` if it was one-dimensional.

    ``names`` and ``dtypes`` are those of its columns, as its library spells them; ``sorts`` say
    what they hold: bool, whole, number or word.
    """

    library: str
    flat: bool
    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    sorts: tuple[str, ...]

    def labels(self, column: int, classes: Sequence[str]) -> Array:
        """A task's classes as values of the column that held them."""
        text = pl.Series(classes, dtype=pl.String)
        values: Array
        match self.sorts[column]:
            case "bool":
                values = (text == "true").to_numpy()
            case "whole":
                values = text.cast(pl.Int64).to_numpy()
            case "number":
                values = text.cast(pl.Float64).to_numpy()
            case _:
                values = np.array(classes, dtype=object)
        return values.astype(self.dtypes[column]) if self.library == "numpy" else values

    def give(self, columns: Sequence[Array], classes: Sequence[Array | None], index: Any) -> Any:
        """One array of predictions for each column, [n], in the form of y.

        Columns with ``classes`` keep their type; amounts are float64. ``index`` is that of pandas
        inputs, if there is one.
        """
        if self.library == "numpy":
            return columns[0] if self.flat else _stacked(columns)
        if self.library == "pandas":
            return self._pandas(columns, classes, index)
        frame = pl.DataFrame(
            [
                pl.Series(name, column.tolist() if column.dtype == object else column)
                for name, column in zip(self.names, columns, strict=True)
            ]
        )
        kept = [
            pl.col(name).cast(getattr(pl, dtype))
            for name, dtype, own in zip(self.names, self.dtypes, classes, strict=True)
            if own is not None
        ]
        frame = frame.with_columns(kept)
        return frame.to_series() if self.flat else frame

    def _pandas(self, columns: Sequence[Array], classes: Sequence[Array | None], index: Any) -> Any:
        import pandas as pd

        frame = pd.DataFrame(dict(enumerate(columns)), index=index)
        for place, own in enumerate(classes):
            if own is not None:
                frame[place] = frame[place].astype(self.dtypes[place])
        frame.columns = pd.Index(self.names)
        return frame[self.names[0]] if self.flat else frame

    def to_json(self) -> dict[str, Any]:
        """The form as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read :meth:`to_json` back."""
        listed = {key: tuple(data[key]) for key in ("names", "dtypes", "sorts")}
        return cls(**{**data, **listed})


def _stacked(columns: Sequence[Array]) -> Array:
    """Columns side by side; words beside numbers make an array of objects."""
    kinds = {"words" if column.dtype.kind in "OUS" else "numbers" for column in columns}
    if len(kinds) > 1:
        columns = [column.astype(object) for column in columns]
    return np.column_stack(columns)


def is_frame(values: Any) -> bool:
    """Whether a table with named columns was given, not an array."""
    return any(hasattr(type(values), name) for name in ("columns", "column_names"))


def columns_of(y: Any, names: Sequence[str] | None = None) -> tuple[Form, pl.DataFrame]:
    """The columns of y, missing labels as nulls, and the form it came in.

    ``names`` call the columns of what has none. Raises ``ValueError`` where y cannot be read.
    """
    if y is None:
        raise ValueError("fit requires y to be passed, but the target y is None")
    if is_frame(y):
        return _frame(y, flat=False)
    if hasattr(y, "to_frame"):  # a series
        name = str(y.name) if y.name not in (None, "") else (names or ("y",))[0]
        return _frame(y.rename(name).to_frame(), flat=True)
    array = _array(y)
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] == 0):
        raise ValueError(f"y should be a 1d array or a table of columns, got shape {array.shape}")
    flat = array.ndim == 1
    table = array[:, None] if flat else array
    count = table.shape[1]
    if names is None:  # one column has one name, whether it stands alone or not
        names = ("y",) if count == 1 else tuple(f"y{i}" for i in range(count))
    if len(names) != count:
        raise ValueError(f"y has {count} columns for {len(names)} tasks: {', '.join(names)}")
    frame = pl.DataFrame([_column(name, table[:, i]) for i, name in enumerate(names)])
    return _form("numpy", frame, (array.dtype.str,) * count, flat=flat), frame


def _frame(y: Any, *, flat: bool) -> tuple[Form, pl.DataFrame]:
    table = read(y, "y")
    frame = table.collect(list(table.schema))
    library = "pandas" if type(y).__module__.partition(".")[0] == "pandas" else "polars"
    if library == "pandas":
        dtypes = tuple(str(dtype) for dtype in y.dtypes)
    else:
        dtypes = tuple(_spelled(frame[name].dtype) for name in frame.columns)
    words = [name for name, dtype in frame.schema.items() if dtype in (pl.Categorical, pl.Enum)]
    frame = frame.with_columns(pl.col(words).cast(pl.String))
    return _form(library, frame, dtypes, flat=flat), frame


def _form(library: str, frame: pl.DataFrame, dtypes: tuple[str, ...], *, flat: bool) -> Form:
    sorts = tuple(_sort_of(dtype) for dtype in frame.dtypes)
    names = tuple(frame.columns)
    return Form(library=library, flat=flat, names=names, dtypes=dtypes, sorts=sorts)


def _sort_of(dtype: pl.DataType) -> str:
    if dtype == pl.Boolean:
        return "bool"
    if dtype.is_integer():
        return "whole"
    return "number" if dtype.is_numeric() else "word"


def _spelled(dtype: pl.DataType) -> str:
    """The name of a polars type; categories are given back as text."""
    plain = dtype.is_numeric() and not dtype.is_decimal()
    return str(dtype) if plain or dtype == pl.Boolean else "String"


def _array(y: Any) -> Array:
    try:
        array = np.asarray(y)
    except ValueError:  # rows of differing lengths
        raise ValueError("y should be a 1d array or a table: its rows differ in length") from None
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported\n{y}\n")
    if array.dtype.kind not in "fiubOUS":
        raise ValueError(f"y holds {array.dtype} values; give numbers or names of classes")
    return array


def _column(name: str, values: Array) -> pl.Series:
    """One column of an array, NaN and None as nulls."""
    if values.dtype.kind == "f":
        wide = values.astype(np.float32) if values.dtype.itemsize < 4 else values
        return pl.Series(name, np.ascontiguousarray(wide)).fill_nan(None)
    if values.dtype.kind in "US":
        return pl.Series(name, values.astype(str).tolist(), dtype=pl.String)
    if values.dtype.kind != "O":
        return pl.Series(name, np.ascontiguousarray(values))
    items = [None if _missing(value) else value for value in values.tolist()]
    sorts = {_sort(value) for value in items if value is not None}
    if len(sorts) > 1 or "" in sorts:
        shown = sorted({type(value).__name__ for value in items if value is not None})
        raise DataError(f"y: column {name!r} mixes values of several types: {', '.join(shown)}")
    return pl.Series(name, items, dtype=pl.Float64 if not sorts else None, strict=False)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, numbers.Real) and value != value)


def _sort(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "bool"
    if isinstance(value, numbers.Real):
        return "number"
    return "word" if isinstance(value, str) else ""
