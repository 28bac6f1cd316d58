"""CSV files, checked before they are believed: every fault is one error with file and line.

Ids such as ``007`` stay text; a column is numbers when all of its values are. Reading streams.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plait.data.errors import DataError
from plait.data.stores import Array

MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL"]
BLOCK = 1 << 24
NUMBERS = 0.95  # a column with this share of numbers is numbers; what is left over is a fault


def scan_csv(files: Sequence[Path], text: Sequence[str] = ()) -> tuple[pl.LazyFrame, list[int]]:
    """A lazy frame of typed columns and the rows of each file.

    ``text`` columns are left as they are. Raises :class:`DataError`: ragged rows, duplicate
    headers, bytes that are not UTF-8, NUL bytes, single words in a column of numbers.
    """
    heads = [_header(file) for file in files]
    for file, (names, separator) in zip(files, heads, strict=True):
        if (names, separator) != heads[0]:
            raise DataError(
                f"{file.name}, line 1: its columns differ from those of {files[0].name}"
            )
    names, separator = heads[0]
    counts = [_check(file, len(names), separator) for file in files]
    # The row count matters: an empty line at the end is no row, but polars would make it one.
    frame = pl.concat(
        pl.scan_csv(
            file, separator=separator, infer_schema=False, null_values=MISSING, glob=False,
            n_rows=count,
        )
        for file, count in zip(files, counts, strict=True)
    )  # fmt: skip
    try:
        numbers = _types(frame, [name for name in names if name not in text], files, counts)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{files[0].name}: cannot be read as CSV: {error}") from error
    return frame.with_columns(pl.col(name).cast(dtype) for name, dtype in numbers.items()), counts


def _header(file: Path) -> tuple[list[str], str]:
    with file.open("rb") as stream:
        first = stream.read(1 << 20)
    if first[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{file.name}: encoded as UTF-16; save it as UTF-8")
    if not first.strip():
        raise DataError(f"{file.name}: empty")
    line = first.split(b"\n", 1)[0]
    try:
        decoded = line.decode("utf-8-sig").rstrip("\r")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.name}, line 1: not UTF-8 ({error.reason}); save it as UTF-8"
        ) from None
    separator = max(",;\t|", key=decoded.count) if file.suffix.lower() != ".tsv" else "\t"
    try:
        rows = list(csv.reader([decoded], delimiter=separator, strict=True))
    except csv.Error as error:
        raise DataError(f"{file.name}, line 1: no header: {error}") from None
    names = rows[0] if rows else []
    if not names:
        raise DataError(f"{file.name}, line 1: no header")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{file.name}, line 1: column {twice[0]!r} appears twice; rename one")
    if "" in names:
        raise DataError(f"{file.name}, line 1: column {names.index('') + 1} has no name")
    return names, separator


def _check(file: Path, columns: int, separator: str) -> int:
    """Count the records of a file; the first that is not well formed is an error."""
    line = records = 0
    carry = b""
    with file.open("rb") as stream:
        while True:
            block = stream.read(BLOCK)
            data = carry + block if block else _ended(carry)
            if not data:
                break
            cut = _complete(data) if block else len(data)
            if block and cut == 0:
                carry = data  # one record longer than a block
                continue
            done, lines = _records(file, data[:cut], line, columns, separator)
            records, line, carry = records + done, line + lines, data[cut:]
            if not block:
                break
    return records - 1


def _ended(data: bytes) -> bytes:
    return data if not data or data.endswith(b"\n") else data + b"\n"


def _complete(data: bytes) -> int:
    """Where the last complete record ends: after the last line break outside quotes."""
    if b'"' not in data:
        return data.rfind(b"\n") + 1
    outside, breaks = _outside(np.frombuffer(data, np.uint8), 10)
    found = np.flatnonzero(breaks & outside)
    return int(found[-1]) + 1 if len(found) else 0


def _outside(codes: Array, code: int) -> tuple[Array, Array]:
    quotes = np.cumsum(codes == 34, dtype=np.uint32) & 1
    return quotes == 0, codes == code


def _records(file: Path, data: bytes, line: int, columns: int, separator: str) -> tuple[int, int]:
    """Check whole records; how many there are, and on how many lines."""
    codes = np.frombuffer(data, np.uint8)
    breaks = codes == 10
    lines = np.flatnonzero(breaks)
    _bytes(file, data, lines, line)
    fields = codes == ord(separator)
    if b'"' in data:
        outside = _outside(codes, 10)[0]
        if not outside[-1]:
            raise DataError(f"{file.name}, line {line + 1} or later: a quote is never closed")
        breaks, fields = breaks & outside, fields & outside
    ends = np.flatnonzero(breaks)
    starts = np.concatenate([[0], ends[:-1] + 1])
    width = np.diff(np.concatenate([[0], np.cumsum(fields)[ends]])) + 1
    empty = (ends - starts == 0) | ((ends - starts == 1) & (codes[starts] == 13))
    wrong = np.flatnonzero((width != columns) | (empty & (columns > 1)))
    if len(wrong):
        at = int(wrong[0])
        where = line + 1 + int(np.searchsorted(lines, starts[at]))
        if empty[at:].all() and columns > 1 and at == len(ends) - 1:
            return len(ends) - 1, len(lines)  # one empty line at the end
        raise DataError(
            f"{file.name}, line {where}: {0 if empty[at] else width[at]} fields where the header "
            f"has {columns}; add or quote what is missing"
        )
    return len(ends), len(lines)


def _bytes(file: Path, data: bytes, lines: Array, line: int) -> None:
    bad = data.find(b"\0")
    reason = "a NUL byte"
    if bad < 0:
        try:
            data.decode()
        except UnicodeDecodeError as error:
            bad, reason = error.start, "bytes that are not UTF-8; save it as UTF-8"
    if bad >= 0:
        where = line + 1 + int(np.searchsorted(lines, bad))
        raise DataError(f"{file.name}, line {where}: {reason}")


def _types(
    frame: pl.LazyFrame, names: Sequence[str], files: Sequence[Path], counts: Sequence[int]
) -> dict[str, Any]:
    """The columns that are numbers, as integers or floats."""
    if not names:
        return {}
    asked = []
    for place, name in enumerate(names):
        value = pl.col(name)
        asked += [
            value.count().alias(f"count{place}"),
            value.cast(pl.Float64, strict=False).count().alias(f"float{place}"),
            value.cast(pl.Int64, strict=False).count().alias(f"int{place}"),
            value.str.contains(r"^[+-]?0\d").any().alias(f"zero{place}"),
        ]
    found = frame.select(asked).collect(engine="streaming").row(0, named=True)
    types: dict[str, Any] = {}
    for place, name in enumerate(names):
        total, floats = found[f"count{place}"], found[f"float{place}"]
        if not total or found[f"zero{place}"]:
            continue
        if floats == total:
            whole = found[f"int{place}"] == total
            types[name] = pl.Int64 if whole else pl.Float64
        elif floats >= NUMBERS * total:
            raise DataError(_stray(frame, name, files, counts))
    return types


def _stray(frame: pl.LazyFrame, name: str, files: Sequence[Path], counts: Sequence[int]) -> str:
    number = pl.col(name).cast(pl.Float64, strict=False)
    row, value = (
        frame.with_row_index("__row")
        .filter(number.is_null() & pl.col(name).is_not_null())
        .select("__row", name)
        .head(1)
        .collect()
        .row(0)
    )
    place = 0
    while row >= counts[place]:
        row -= counts[place]
        place += 1
    return (
        f"{files[place].name}, row {row + 1}: column {name!r} holds numbers, but {value!r} here; "
        f"correct it, or declare types: {{{name}: categorical}}"
    )
