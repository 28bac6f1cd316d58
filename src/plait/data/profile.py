"""What the training rows show of a column, gathered chunk by chunk."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import polars as pl

from plait.data.errors import DataError
from plait.data.images import SUFFIXES, channels_first, stack_images
from plait.data.sequences import in_order
from plait.data.sources import Chunk, Table
from plait.data.stores import Array
from plait.data.vectors import exploded, stack

MOST_VALUES = 20_000
READ = 200_000  # texts whose letters and words are counted; the others are taken to be alike
_FILE = re.compile(rf"\.({'|'.join(suffix[1:] for suffix in SUFFIXES)})$", re.IGNORECASE).pattern


def family_of(table: Table, column: str) -> str:
    """How a column is stored.

    ``number``, ``string``, ``array``, ``items`` (lists of words) or ``file`` (bytes of images).
    """
    if column in table.arrays:
        return "array"
    dtype = table.schema[column]
    if dtype.is_numeric() or dtype.is_temporal() or dtype in (pl.Boolean, pl.Null):
        return "number"
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "string"
    if isinstance(dtype, pl.List) and dtype.inner in (pl.String, pl.Categorical, pl.Enum):
        return "items"
    if isinstance(dtype, (pl.List, pl.Array)):
        return "array"
    if dtype == pl.Binary or isinstance(dtype, pl.Struct):
        return "file"
    raise DataError(f"{table.place}: column {column!r} has type {dtype}, which plait cannot read")


def as_text(values: pl.Series) -> pl.Series:
    """Values as class names and categories: 3 and 3.0 are ``3``, true is ``true``."""
    if values.dtype.is_float():
        whole = values.cast(pl.Int64, strict=False)
        same = whole.cast(pl.Float64) == values
        return pl.select(
            pl.when(same).then(whole.cast(pl.String)).otherwise(values.cast(pl.String))
        ).to_series()
    return values.cast(pl.String)


def odd_words(values: pl.Series, most: int = 3) -> list[str]:
    """The few words among values that are numbers otherwise; none where there are many."""
    text = values.drop_nulls().cast(pl.String)
    words = text.filter(text.cast(pl.Float64, strict=False).is_null())
    if len(words) > len(text) / 2 or words.n_unique() > most:
        return []
    return sorted(words.unique().to_list())


def as_numbers(chunk: Chunk, columns: Sequence[str]) -> Array:
    """Columns as float64 [n, columns], NaN where missing; times as they count (days, microseconds).

    Raises :class:`DataError` with the row for an infinite value or text that is no number.
    """
    for name in columns:
        if name in chunk.arrays:
            raise DataError(f"{chunk.table.place}: column {name!r} is an array, not numbers")
    if not columns:
        return np.zeros((len(chunk), 0))
    # Named by place: a column may stand for two roles.
    schema = chunk.frame.schema
    asked = [_number(schema[name], name).alias(str(place)) for place, name in enumerate(columns)]
    found = chunk.frame.select(asked).to_numpy(writable=True)
    if np.isinf(found).any():
        row, place = (int(at[0]) for at in np.nonzero(np.isinf(found)))
        raise _unusable(chunk, columns[place], row, "is infinite")
    for place, name in enumerate(columns):
        if schema[name] == pl.String:
            wrong = np.isnan(found[:, place]) & chunk.frame[name].is_not_null().to_numpy()
            if wrong.any():
                raise _unusable(chunk, name, int(np.argmax(wrong)), "is no number")
    return found


def _number(dtype: pl.DataType, name: str) -> pl.Expr:
    column = pl.col(name)
    if dtype.is_temporal():
        column = column.to_physical()
    return column.cast(pl.Float64, strict=False)


def _unusable(chunk: Chunk, name: str, at: int, fault: str) -> DataError:
    where = chunk.table.where(int(chunk.rows[at]))
    value = chunk.frame[name][at]
    return DataError(f"{where}: {name!r} is {value!r}, which {fault}; correct it or leave it empty")


class Profile:
    """Statistics of one role over the training rows seen so far."""

    def __init__(self, family: str, *, count: bool = False) -> None:
        self.family = family
        self.declared = count  # the values are wanted however many there are
        self.rows = 0
        self.missing = 0
        # Numbers and arrays: running mean and sum of squares, per channel of an array.
        self.seen = 0
        self.mean = np.zeros(1)
        self.squares = np.zeros(1)
        self.low, self.high = math.inf, -math.inf
        self.whole = True
        self.shape: tuple[int, ...] = ()
        self.byte = False
        # Strings: characters, values with blanks, values that name image files, counts of values.
        self._read = 0
        self._letters = self._words = self._files = 0
        self.values: Counter[str] | None = Counter() if count or family == "string" else None
        self.fresh: float | None = None  # the share of new values when there were too many to count

    def see(self, chunk: Chunk, columns: tuple[str, ...], *, declared: str | None = None) -> None:
        """Take in the training rows of a chunk."""
        self.rows += len(chunk)
        values = chunk.column(columns[0])
        if declared == "sequence":
            self._values(in_order(chunk, columns[0])[1].drop_nulls())
        elif declared == "list" or (self.family == "items" and declared is None):
            self._values(exploded(chunk, columns[0])[0])
        elif declared == "image" or self.family == "file":
            self._array(stack_images(chunk, columns[0]), chunk.table.place)
        elif self.family == "array" or declared == "vector":
            array = stack(chunk, columns[0])
            if array.ndim > 2 and declared != "vector":
                array = channels_first(array, f"{chunk.table.place}: column {columns[0]!r}")
            self._array(array, chunk.table.place)
        elif isinstance(values, pl.Series):
            self._string(values)

    def see_numbers(self, numbers: Array, values: pl.Series) -> None:
        """Take in the training rows of a column as float64 [n], NaN where missing."""
        self.rows += len(numbers)
        absent = np.isnan(numbers)
        count = int(absent.sum())
        self.missing += count
        present = numbers[~absent] if count else numbers
        if not len(present):
            return
        self.whole = self.whole and bool((present == np.floor(present)).all())
        self._range(present)
        self._moments(present[None])
        if self.values is not None:
            self._values(as_text(values.drop_nulls()))

    def _string(self, values: pl.Series) -> None:
        text = values.cast(pl.String).drop_nulls()
        self.missing += len(values) - len(text)
        if not len(text):
            return
        if self._read < READ:
            self._read += len(text)
            self._letters += int(text.str.len_chars().sum())
            self._words += int(text.str.count_matches(r"\s+").sum()) + len(text)
            self._files += int(text.str.contains(_FILE).sum())
        if self.values is not None and (self.declared or self.fresh is None or self.fresh <= 0.5):
            self._values(text)

    def _values(self, text: pl.Series) -> None:
        assert self.values is not None
        counts = text.alias("value").value_counts()
        self.values.update(
            dict(zip(counts["value"].to_list(), counts["count"].to_list(), strict=True))
        )
        # Pruned now and then, not with every chunk.
        if len(self.values) > MOST_VALUES * (1 if self.fresh is None else 4):
            if self.fresh is None:
                self.fresh = len(self.values) / (self.rows - self.missing)
            # Too many to be categories; the most frequent are kept for a declared category.
            self.values = Counter(dict(self.values.most_common(MOST_VALUES)))

    def _array(self, array: Array, place: str) -> None:
        if self.shape and self.shape != array.shape[1:]:
            raise DataError(
                f"{place}: arrays of differing shapes: {self.shape} and {array.shape[1:]}"
            )
        self.shape = array.shape[1:]
        self.byte = array.dtype == np.uint8
        if array.size == 0:
            return
        if not np.isfinite(array).all():
            raise DataError(f"{place}: an array holds NaN or infinite values")
        self._range(array)
        channels = array.shape[1] if array.ndim == 4 else 1
        moved = np.moveaxis(array, 1, 0) if array.ndim == 4 else array
        self._moments(moved.reshape(channels, -1).astype(np.float64))

    def _range(self, array: Array) -> None:
        self.low, self.high = min(self.low, float(array.min())), max(self.high, float(array.max()))

    def _moments(self, values: Array) -> None:
        # Chan, Golub, LeVeque (1979): means and squares of two pieces into those of the whole.
        count, mean = values.shape[1], values.mean(1)
        squares = np.square(values - mean[:, None]).sum(1)
        total = self.seen + count
        gap = mean - self.mean
        self.mean = self.mean + gap * (count / total)
        self.squares = self.squares + squares + np.square(gap) * (self.seen * count / total)
        self.seen = total

    def _every(self, counted: int) -> int:
        """What was counted in the texts that were read, for all of them."""
        return round(counted * (self.rows - self.missing) / max(self._read, 1))

    @property
    def letters(self) -> int:
        """Characters of all values."""
        return self._every(self._letters)

    @property
    def words(self) -> int:
        """Words of all values."""
        return self._every(self._words)

    @property
    def files(self) -> int:
        """Values that look like names of image files."""
        return self._every(self._files)

    @property
    def deviation(self) -> Array:
        """The standard deviation, 1 where the values are constant."""
        found = np.sqrt(self.squares / max(self.seen, 1))
        return np.where(found > 1e-12 * np.maximum(1.0, np.abs(self.mean)), found, 1.0)

    @property
    def distinct(self) -> int:
        """How many values there are; where they are too many to count, as if most were new."""
        if self.fresh is not None:
            return int(self.fresh * (self.rows - self.missing))
        return len(self.values or ())

    @property
    def constant(self) -> bool:
        """Whether every row has the same value."""
        if self.missing == self.rows:
            return True
        if self.missing or self.family in ("array", "items", "file"):
            return False
        return self.low == self.high if self.family == "number" else self.distinct == 1

    @property
    def unique(self) -> bool:
        """Whether nearly every row has a value of its own."""
        present = self.rows - self.missing
        return present > 1 and self.distinct >= 0.95 * present
