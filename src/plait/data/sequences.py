"""Sequences: columns whose every value is several items in an order that counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from plait.batch import Input
from plait.data.errors import DataError
from plait.data.sources import Chunk
from plait.data.stores import Array

LONGEST = 512  # items of a sequence that are read: the last ones


def in_order(chunk: Chunk, column: str) -> tuple[Array, pl.Series]:
    """The items of a column of sequences: :func:`items_of`."""
    values = chunk.column(column)
    if not isinstance(values, pl.Series):
        values = pl.Series(column, list(values))
    return items_of(values, chunk.table.place)


def items_of(values: pl.Series, place: str) -> tuple[Array, pl.Series]:
    """How many items each value has [n], and all items one after another as text.

    Text is split at blanks. What is missing inside a list keeps its place; a missing value has no
    item. Raises :class:`DataError` for a column of anything else.
    """
    if values.dtype in (pl.String, pl.Categorical, pl.Enum):
        words = values.cast(pl.String).str.strip_chars().str.replace_all(r"\s+", " ")
        values = words.str.split(" ").list.eval(pl.element().filter(pl.element() != ""))
    if not isinstance(values.dtype, (pl.List, pl.Array)) or values.dtype.inner.is_nested():
        raise DataError(f"{place}: {values.name!r} holds no sequences: lists, or words and blanks")
    if isinstance(values.dtype, pl.Array):
        values = values.arr.to_list()
    lengths = values.list.len().fill_null(0).to_numpy().astype(np.int64)
    items = values.filter(pl.Series(lengths > 0)).explode()
    if items.dtype.is_float():
        message = "holds fractions; items are words or whole numbers"
        raise DataError(f"{place}: {values.name!r} {message}")
    return lengths, items.cast(pl.String)


def last(lengths: Array, most: int = LONGEST) -> tuple[Array, Array]:
    """The lengths [n] cut to ``most``, and which of all items are kept: the last of each."""
    ends = np.repeat(np.cumsum(lengths), lengths)
    return np.minimum(lengths, most), np.arange(len(ends)) >= ends - most


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """Items in their order as numbers from 2, most frequent first; 1 is one unknown in train."""

    role: str
    values: tuple[str, ...]

    @property
    def roles(self) -> Sequence[str]:
        return (self.role,)

    @property
    def input(self) -> Input:
        size = len(self.values) + 2
        return Input(key=f"sequence.{self.role}", type="sequence", shape=(-1,), sizes=(size,))

    def encode(self, view: Any) -> tuple[Array, Array]:
        lengths, items = in_order(view.chunk, view.roles[self.role][0])
        codes = items.replace_strict(
            pl.Series(self.values, dtype=pl.String),
            pl.Series(range(2, len(self.values) + 2), dtype=pl.Int32),
            default=1, return_dtype=pl.Int32,
        ).fill_null(1)  # fmt: skip
        lengths, kept = last(lengths)
        return lengths, codes.to_numpy()[kept]

    finish = None

    def to_json(self) -> dict[str, Any]:
        return {"role": self.role, "values": list(self.values)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ordered:
        return cls(role=data["role"], values=tuple(data["values"]))
