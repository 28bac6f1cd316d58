"""The types of the columns of a CSV: a column is numbers when all of its values are.

Ids such as ``007`` stay text, and a single word in a column of numbers is an error with its row.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from plait.data.errors import DataError

MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL"]
NUMBERS = 0.95  # a column with this share of numbers is numbers; what is left over is a fault


@dataclass(frozen=True)
class Shape:
    """What the bytes of a block show.

    Its ``records`` and ``lines``, the columns with ``zeros`` in front of a value's further digits,
    and whether there may be ``words`` that mean "missing".
    """

    records: int
    lines: int
    zeros: frozenset[int] = frozenset()
    words: bool = True


def parsed(
    block: bytes,
    types: Mapping[str, Any],
    separator: str,
    blanks: Mapping[str, Sequence[str]],
    names: Sequence[str],
    *,
    words: bool = True,
) -> pl.DataFrame:
    """The columns of a block in the order asked for; ``words`` where some may mean "missing"."""
    place = {name: number for number, name in enumerate(types)}
    # By number: polars has its own names for the columns of a file without a header.
    schema = {
        f"column_{place[name] + 1}": pl.String if name in blanks else dtype
        for name, dtype in types.items()
    }
    found = pl.read_csv(
        io.BytesIO(block), has_header=False, separator=separator, schema=schema,
        columns=[place[name] for name in names],
        null_values=MISSING if words else None,  # an empty value is missing in any case
    )  # fmt: skip
    found = found.select(pl.col(f"column_{place[name] + 1}").alias(name) for name in names)
    special = [name for name in names if name in blanks]
    if not special:
        return found
    return found.with_columns(
        pl.when(pl.col(name).str.strip_chars().is_in(list(blanks[name])).not_())
        .then(pl.col(name))
        .cast(types[name])
        for name in special
    )


class ColumnTypes:
    """The types of columns, guessed from the first block and held against every further one."""

    def __init__(
        self,
        names: Sequence[str],
        text: Sequence[str],
        blanks: Mapping[str, Sequence[str]],
        separator: str,
    ) -> None:
        self.names = names
        self.text = frozenset(text)
        self.blanks = blanks
        self.separator = separator
        self.types: dict[str, Any] = dict.fromkeys(names, pl.String)
        self.zeros: set[str] = set()
        self.total = dict.fromkeys(names, 0)  # values that are there
        self.numbers = dict.fromkeys(names, 0)
        self.whole = dict.fromkeys(names, True)
        self.strays: dict[str, str] = {}
        self.unspelled: set[str] = set()  # columns whose values were read as numbers
        self.blocks = 0

    def see(self, block: bytes, head: bytes, shape: Shape, place: str, row: int) -> pl.DataFrame:
        """Take in a block whose first row has the number ``row`` at its place.

        ``head`` are some of its first records. Gives the records as they were read.
        """
        zeros = [self.names[at] for at in shape.zeros]
        self.zeros |= set(zeros)
        if self.blocks == 0:
            self._guess(self._read(head, dict.fromkeys(self.names, pl.String), shape))
        self.types |= dict.fromkeys(zeros, pl.String)
        self.blocks += 1
        try:
            frame = self._read(block, self.types, shape)
        except pl.exceptions.ComputeError:
            frame = self._read(block, dict.fromkeys(self.names, pl.String), shape)
        frame = frame.head(shape.records)  # an empty line at the end is no row
        self._count(frame, place, row)
        return frame

    def _read(self, block: bytes, types: Mapping[str, Any], shape: Shape) -> pl.DataFrame:
        return parsed(block, types, self.separator, self.blanks, self.names, words=shape.words)

    def _guess(self, frame: pl.DataFrame) -> None:
        for name in self.names:
            if name in self.text or name in self.blanks:
                continue
            found = frame[name].drop_nulls()
            for dtype in (pl.Int64, pl.Float64):
                if found.cast(dtype, strict=False).null_count() == 0:
                    self.types[name] = dtype
                    break

    def _count(self, frame: pl.DataFrame, place: str, row: int) -> None:
        for name in self.names:
            values = frame[name]
            there = len(values) - values.null_count()
            self.total[name] += there
            if values.dtype != pl.String:
                self.unspelled |= {name} if there else set()
                self.numbers[name] += there
                self.whole[name] &= values.dtype == pl.Int64
                continue
            if name in self.text:
                continue
            floats = values.cast(pl.Float64, strict=False)
            count = len(floats) - floats.null_count()
            self.numbers[name] += count
            if count < there and name not in self.strays:
                at = int((floats.is_null() & values.is_not_null()).arg_max() or 0)
                self.strays[name] = f"{place}{row + at + 1}|{values[at]!r}"
            integers = False
            if count:
                whole = values.cast(pl.Int64, strict=False)
                integers = len(whole) - whole.null_count() == there
                self.whole[name] &= integers
            if self.types[name] != pl.String and there and not integers:
                # The guess did not hold.
                self.types[name] = pl.Float64 if count == there else pl.String

    def holds(self, types: Mapping[str, Any]) -> bool:
        """Whether what was read says all that there is to say in these types."""
        return not any(types[name] == pl.String for name in self.unspelled)

    def decide(self) -> dict[str, Any]:
        """The type of every column; :class:`DataError` for single words among numbers."""
        found: dict[str, Any] = {}
        for name in self.names:
            found[name] = pl.String
            total, numbers = self.total[name], self.numbers[name]
            if name in self.text or name in self.zeros or not total:
                continue
            if numbers == total:
                found[name] = pl.Int64 if self.whole[name] else pl.Float64
            elif numbers >= NUMBERS * total:
                place, _, value = self.strays[name].partition("|")
                raise DataError(
                    f"{place}: column {name!r} holds numbers, but {value} here; correct it, "
                    f"declare types: {{{name}: categorical}}, or missing: [{value}] for a task"
                )
        return found
