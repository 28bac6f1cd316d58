"""CSV files, checked before they are believed: every fault is one error with file and line.

Ids such as ``007`` stay text; a column is numbers when all of its values are. Files are read block
by block, so that memory grows neither with the rows nor with the threads; while one block is
parsed, the next is read and checked, and the one before set aside for those who read it again.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plait.data.csv_types import ColumnTypes, Shape, parsed
from plait.data.errors import DataError
from plait.data.spilling import Spill, has_room
from plait.data.stores import Array

BLOCK = 1 << 21
GUESS = 1 << 16  # bytes whose values are looked at for a first guess of the types
_PACKED = {
    b"\x1f\x8b": "packed with gzip; unpack it",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save it as CSV",
    b"PAR1": "Parquet; name it .parquet",
    b"\x28\xb5\x2f\xfd": "packed with zstd; unpack it",
    b"\xff\xfe": "encoded as UTF-16; save it as UTF-8",
    b"\xfe\xff": "encoded as UTF-16; save it as UTF-8",
}


@dataclass(frozen=True, kw_only=True)
class CsvRows:
    """The rows of one or more files with the same columns.

    ``types`` are those of all columns, ``counts`` the rows of each file, ``blanks`` the words that
    mean "missing" in some columns. ``aside`` holds the columns where they could be set aside.
    """

    files: Sequence[Path]
    separator: str
    types: Mapping[str, pl.DataType]
    counts: Sequence[int]
    blanks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    aside: Spill | None = field(default=None, repr=False, compare=False)

    def batches(self, names: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Some columns of all rows, in order, a block at a time."""
        yield from _ahead(self._batches(names))

    def _batches(self, names: Sequence[str]) -> Iterator[pl.DataFrame]:
        if self.aside is not None:
            asked: dict[Any, Any] = {name: self.types[name] for name in names}
            yield from (frame.cast(asked) for frame in self.aside.frames(names))
            return
        for file, count in zip(self.files, self.counts, strict=True):
            left = count
            for block in _blocks(file):
                found = parsed(block, self.types, self.separator, self.blanks, names)
                found = found.head(left)  # an empty line at the end is no row
                left -= len(found)
                if len(found):
                    yield found


def scan_csv(
    files: Sequence[Path],
    text: Sequence[str] = (),
    blanks: Callable[[str], Sequence[str]] = lambda _: (),
) -> CsvRows:
    """The checked rows of files with the same header.

    ``text`` columns are left as they are; ``blanks`` gives the words that mean "missing" in a
    column, beside the usual ones. Raises :class:`DataError`: ragged rows, duplicate headers, bytes
    that are not UTF-8, NUL bytes, single words in a column of numbers.
    """
    heads = [_header(file) for file in files]
    for file, (names, separator) in zip(files, heads, strict=True):
        if (names, separator) != heads[0]:
            raise DataError(
                f"{file.name}, line 1: its columns differ from those of {files[0].name}; give the "
                "files one header, or declare them as tables of their own"
            )
    names, separator = heads[0]
    words = {name: found for name in names if (found := tuple(blanks(name)))}
    seen = ColumnTypes(names, text, words, separator)
    aside = Spill() if has_room(sum(file.stat().st_size for file in files)) else None
    counts = []
    for file in files:
        counts.append(0)
        for frame, records in _ahead(_parsed(file, seen)):
            aside = _set_aside(aside, frame)
            counts[-1] += records
    types = seen.decide()
    return CsvRows(
        files=files, separator=separator, types=types, counts=counts, blanks=words,
        aside=aside if seen.holds(types) else None,
    )  # fmt: skip


def _parsed(file: Path, seen: ColumnTypes) -> Iterator[tuple[pl.DataFrame, int]]:
    """The blocks of a file as they are read for now, and how many records each has."""
    row, line = 0, 1
    for block, found in _ahead(_checked(file, len(seen.names), seen.separator)):
        if found.records:
            head = block[: _complete(block[:GUESS]) or len(block)]
            try:
                frame = seen.see(block, head, found, f"{file.name}, row ", row)
            except pl.exceptions.PolarsError as error:
                _exactly(file, block, line, len(seen.names), seen.separator)
                said = str(error).split("\n", 1)[0]
                raise DataError(
                    f"{file.name}, after line {line}: cannot be read as CSV: {said}"
                ) from error
            yield frame, found.records
        row, line = row + found.records, line + found.lines


def _set_aside(aside: Spill | None, frame: pl.DataFrame) -> Spill | None:
    """The same place with one more frame; None where the disk is full: all is parsed again then."""
    try:
        if aside is not None:
            aside.add(frame)
    except (OSError, pl.exceptions.PolarsError):
        return None
    return aside


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, each made while the one before it is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def _header(file: Path) -> tuple[list[str], str]:
    with file.open("rb") as stream:
        first = stream.read(1 << 20)
    for start, reason in _PACKED.items():
        if first.startswith(start):
            raise DataError(f"{file.name}: not CSV but {reason}")
    if not first.strip():
        raise DataError(f"{file.name}: empty; it needs a header and rows")
    line = first.split(b"\n", 1)[0]
    try:
        decoded = line.decode("utf-8-sig").rstrip("\r")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.name}, line 1: not UTF-8 ({error.reason}); save it as UTF-8"
        ) from None
    if "\0" in decoded:
        raise DataError(f"{file.name}, line 1: a NUL byte; save the table as CSV in UTF-8")
    separator = max(",;\t|", key=decoded.count) if file.suffix.lower() != ".tsv" else "\t"
    try:
        rows = list(csv.reader([decoded], delimiter=separator, strict=True))
    except csv.Error as error:
        raise DataError(f"{file.name}, line 1: no header: {error}") from None
    names = rows[0] if rows else []
    if not names:
        raise DataError(f"{file.name}, line 1: no header; the first line names the columns")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{file.name}, line 1: column {twice[0]!r} appears twice; rename one")
    if "" in names:
        raise DataError(
            f"{file.name}, line 1: column {names.index('') + 1} has no name; give it one"
        )
    return names, separator


def _blocks(file: Path) -> Iterator[bytes]:
    """The file behind its header in blocks of whole records."""
    with file.open("rb") as stream:
        stream.readline()
        carry = b""
        while read := stream.read(BLOCK):
            data = carry + (read + stream.readline())
            cut = _complete(data)
            done, carry = data[:cut], data[cut:]
            if done:
                yield done
        if carry:
            yield _ended(carry)


def _ended(data: bytes) -> bytes:
    return data if not data or data.endswith(b"\n") else data + b"\n"


def _complete(data: bytes) -> int:
    """Where the last complete record ends: after the last line break outside quotes."""
    if b'"' not in data:
        return data.rfind(b"\n") + 1
    codes = np.frombuffer(data, np.uint8)
    found = np.flatnonzero((codes == 10) & _outside(codes))
    return int(found[-1]) + 1 if len(found) else 0


def _outside(codes: Array) -> Array:
    outside: Array = np.cumsum(codes == 34, dtype=np.uint32) & 1 == 0
    return outside


def _checked(file: Path, columns: int, separator: str) -> Iterator[tuple[bytes, Shape]]:
    """Blocks and their shape; the first record that is not well formed is an error."""
    line = 1
    for block in _blocks(file):
        found = _shape(file, block, line, columns, separator)
        line += found.lines
        yield block, found


def _shape(file: Path, data: bytes, line: int, columns: int, separator: str) -> Shape:
    """The shape of a block; that no record has too many fields may be left to the parser."""
    codes = np.frombuffer(data, np.uint8)
    _bytes(file, data, codes, line)
    if columns > 1 and b'"' not in data:
        marks = codes == 10
        lines = int(np.count_nonzero(marks))
        marks |= codes == ord(separator)
        fields = int(np.count_nonzero(marks))
        if fields == lines * columns and not _has_zeros(codes, marks):
            return Shape(lines, lines, words=_has_words(codes, marks))
    return _exactly(file, data, line, columns, separator)


def _has_zeros(codes: Array, marks: Array) -> bool:
    """Whether any value begins with a zero and a further digit; ``marks`` [n] end the values."""
    first = len(codes) > 1 and codes[0] == 48 and 48 <= codes[1] <= 57
    zeros = np.flatnonzero(marks[:-2] & (codes[1:-1] == 48))
    after = codes[zeros + 2]
    return bool(first or ((after >= 48) & (after <= 57)).any())


def _has_words(codes: Array, marks: Array) -> bool:
    """Whether any value may be a word that means "missing": all of those begin with n or N."""
    small = codes | 32
    return bool(small[0] == 110 or (marks[:-1] & (small[1:] == 110)).any())


def _exactly(file: Path, data: bytes, line: int, columns: int, separator: str) -> Shape:
    """The shape of a block, record by record; the first that is not well formed is an error."""
    codes = np.frombuffer(data, np.uint8)
    marks = (codes == 10) | (codes == ord(separator))
    lines = data.count(b"\n")
    if b'"' in data:
        outside = _outside(codes)
        if not outside[-1]:
            raise DataError(
                f"{file.name}, line {line + 1} or later: a quote is never closed; close it, or "
                'write " inside a value as ""'
            )
        marks &= outside
    places = np.flatnonzero(marks)
    ends = codes[places] == 10
    count = int(ends.sum())
    regular = columns > 1 and len(places) == count * columns and ends[columns - 1 :: columns].all()
    if not regular:
        count = _ragged(file, codes, places, np.flatnonzero(ends), line, columns)
    zeros = _zeros(codes, places, columns, quoted=b'"' in data)
    return Shape(count, lines, zeros=zeros)


def _ragged(file: Path, codes: Array, places: Array, ends: Array, line: int, columns: int) -> int:
    """The number of records; an error for the first that has too many or too few fields."""
    stops = places[ends]
    starts = np.concatenate([[0], stops[:-1] + 1])
    width = np.diff(np.concatenate([[-1], ends]))
    empty = (stops - starts == 0) | ((stops - starts == 1) & (codes[starts] == 13))
    wrong = np.flatnonzero((width != columns) | (empty & (columns > 1)))
    if not len(wrong):
        return len(stops)
    at = int(wrong[0])
    if empty[at] and columns > 1 and at == len(stops) - 1:
        return at  # one empty line at the end
    where = line + 1 + int((codes[: starts[at]] == 10).sum())
    raise DataError(
        f"{file.name}, line {where}: {0 if empty[at] else width[at]} fields where the header "
        f"has {columns}; add or quote what is missing"
    )


def _zeros(codes: Array, places: Array, columns: int, *, quoted: bool) -> frozenset[int]:
    """The columns with a value such as 007."""
    starts = np.concatenate([[0], places[:-1] + 1])
    if quoted:
        starts += codes[starts] == 34
    odd = np.flatnonzero(codes[starts] == 48)
    after = codes[np.minimum(starts[odd] + 1, len(codes) - 1)]
    found = odd[(after >= 48) & (after <= 57)]
    return frozenset(np.unique(found % columns).tolist())


def _bytes(file: Path, data: bytes, codes: Array, line: int) -> None:
    bad = data.find(b"\0")
    reason = "a NUL byte; remove it"
    if bad < 0 and not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            bad = error.start
            reason = f"byte 0x{data[bad]:02x} is not UTF-8; save the file as UTF-8"
    if bad >= 0:
        where = line + 1 + int((codes[:bad] == 10).sum())
        raise DataError(f"{file.name}, line {where}: {reason}")
