"""Vectors and lists: columns whose every value is several numbers or several items."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from plait.data.errors import DataError
from plait.data.sources import Chunk
from plait.data.stores import Array

_APART = r"[\s,;|\[\](){}\"']+"  # what stands between items written as text


def stack(chunk: Chunk, column: str) -> Array:
    """A column of lists or arrays as one array [n, ...]; every row must have the same shape.

    Text such as ``[0.1, 0.2]`` is read as numbers between commas, semicolons, bars or blanks.
    Raises :class:`DataError` with the row.
    """
    values = chunk.column(column)
    if not isinstance(values, pl.Series):
        return values
    if values.dtype == pl.String:
        values = _numbers(chunk, column, values)
    missing = np.flatnonzero(values.is_null().to_numpy())
    if len(missing):
        where = chunk.table.where(int(chunk.rows[missing[0]]))
        raise DataError(
            f"{where}: {column!r} is missing; a vector or image must be there in every row"
        )
    if isinstance(values.dtype, pl.List):
        lengths = values.list.len().to_numpy()
        wrong = np.flatnonzero(lengths != lengths[0])
        if len(wrong):
            where = chunk.table.where(int(chunk.rows[wrong[0]]))
            raise DataError(
                f"{where}: {column!r} has {lengths[wrong[0]]} values where others have "
                f"{lengths[0]}; a vector has one length, declare types: {{{column}: list}} for "
                "lists of items"
            )
        if values.dtype.inner.is_numeric() and len(values):
            flat = values.explode().to_numpy()
            return flat.reshape(len(values), int(lengths[0]))
    return np.stack([_nested(value) for value in values]) if len(values) else np.zeros((0, 1))


def _nested(value: Any) -> Array:
    if isinstance(value, pl.Series):
        if isinstance(value.dtype, (pl.List, pl.Array)):
            return np.stack([_nested(inner) for inner in value])
        return value.to_numpy()
    return np.asarray(value)


def _numbers(chunk: Chunk, column: str, values: pl.Series) -> pl.Series:
    """Numbers that are written as text, as lists."""
    words = _split(values)
    found = words.list.eval(pl.element().cast(pl.Float64, strict=False))
    wrong = found.list.eval(pl.element().is_null()).list.any().fill_null(value=False)
    if wrong.any():
        at = int(wrong.arg_max() or 0)
        where = chunk.table.where(int(chunk.rows[at]))
        raise DataError(f"{where}: {column!r} is {values[at]!r}, which is no vector of numbers")
    return found


def _split(values: pl.Series) -> pl.Series:
    plain = values.str.replace_all(_APART, " ").str.strip_chars()
    parts = plain.str.split(" ")
    return parts.list.eval(pl.element().filter(pl.element() != ""))


def exploded(chunk: Chunk, column: str) -> tuple[pl.Series, Array]:
    """The items of a column of lists, one after another, as text, and the place of each one's row.

    Missing lists are empty. Text is split at commas, semicolons, bars and blanks.
    """
    values = chunk.column(column)
    if not isinstance(values, pl.Series):
        values = pl.Series(column, list(values))
    if values.dtype == pl.String:
        values = _split(values)
    frame = pl.DataFrame({"item": values}).with_row_index("row").explode("item").drop_nulls()
    return frame["item"].cast(pl.String), frame["row"].to_numpy().astype(np.int64)
