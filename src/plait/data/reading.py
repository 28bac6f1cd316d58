"""Reading: the rows of all tables, split, before their inputs are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plait.data.chains import check_chains
from plait.data.declare import DataSpec, TableSpec, TaskSpec
from plait.data.errors import DataError
from plait.data.numbering import numbers_of
from plait.data.sources import Table, read
from plait.data.splits import sampled, split_column, split_rows
from plait.data.stores import Array
from plait.data.targets import Target, find_targets, spelled
from plait.method import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of all tables: what is known of them before their inputs are looked at.

    ``frames`` hold targets and other columns that are not inputs; ``ids`` a number for each row's
    id, where its table has one; ``splits`` the part of each row; ``keep`` which rows stay;
    ``starts`` the first row of each table in the data set.
    """

    data: DataSpec
    tables: Sequence[Table]
    targets: Sequence[Target]
    reserved: Sequence[set[str]]
    labels: Sequence[set[str]]
    frames: Sequence[pl.DataFrame]
    ids: Sequence[Array | None]
    splits: Sequence[Array]
    keep: Sequence[Array | None]
    starts: Array
    fit: Sequence[Array]
    facts: list[str]

    def names(self, table: int) -> pl.Series:
        """The ids of a table's rows as they are written; of tables without ids the row numbers."""
        found = self.tables[table]
        if self.ids[table] is None:
            rows = len(self.splits[table])
            prefix = f"{found.name}:" if len(self.tables) > 1 else ""
            return prefix + pl.int_range(rows, eager=True).cast(pl.String)
        ids = found.collect([str(self.data.id)]).to_series()
        kept = self.keep[table]
        return ids if kept is None else ids.filter(pl.Series(kept))


def read_rows(
    data: DataSpec,
    tasks: Mapping[str, TaskSpec],
    sample: float | None,
    base: Path | None,
    *,
    all_train: bool,
) -> Rows:
    """Read all tables and split their rows; :class:`DataError` for what cannot be."""
    if not data.tables:
        raise DataError("no tables are declared")
    check_chains(tasks)
    tables = {name: _read(name, spec, data, tasks, base) for name, spec in data.tables.items()}
    _check_ids(data, list(tables.values()))
    apart = _apart(data, tables)
    targets = find_targets(tables, tasks, {each for used in apart.values() for each in used})
    for target in targets:
        named = (target.column, target.spec.by, target.spec.weight, target.spec.group)
        apart[target.table.name] |= {column for column in named if column is not None}
    listed = list(tables.values())
    looked = [_collected(table, data, apart[table.name], targets) for table in listed]
    frames, ids = [frame for frame, _ in looked], [found for _, found in looked]
    splits, facts = split_rows(listed, frames, data.split, ids)
    if all_train:
        splits = [np.minimum(split, 0) for split in splits]
        facts = ["Every row is a training row."]
    keep: list[Array | None] = [None] * len(listed)
    fit = [split == 0 for split in splits]
    if sample is not None and sample < 1:
        chosen = sampled(listed, ids, sample)
        keep = list(chosen)
        fit = [train & kept for train, kept in zip(fit, chosen, strict=True)]
        if not all(train.any() for train in fit):
            raise DataError(f"a sample of {sample:.1%} leaves a table without training rows")
        frames = [frame.filter(pl.Series(kept)) for frame, kept in zip(frames, chosen, strict=True)]
        splits = [split[kept] for split, kept in zip(splits, chosen, strict=True)]
        ids = [own if own is None else own[kept] for own, kept in zip(ids, chosen, strict=True)]
        numbers = dict(zip(tables, map(np.flatnonzero, chosen), strict=True))
        targets = [
            replace(each, table=replace(each.table, numbers=numbers[each.table.name]))
            for each in targets
        ]
        facts.append(f"A sample of {sample:.0%} of the rows.")
    starts = np.concatenate([[0], np.cumsum([len(split) for split in splits])])
    return Rows(
        data=data, tables=listed, targets=targets,
        reserved=[apart[table.name] for table in listed],
        labels=[
            {target.column for target in targets if target.table.name == table.name}
            for table in listed
        ],
        frames=frames, ids=ids, splits=splits, keep=keep, starts=starts, fit=fit, facts=facts,
    )  # fmt: skip


def _read(
    name: str, spec: TableSpec, data: DataSpec, tasks: Mapping[str, TaskSpec], base: Path | None
) -> Table:
    worded = ("categorical", "hashed", "text", "vector", "list", "sequence")
    text = [column for column, kind in spec.types.items() if kind in worded]
    words = {
        pattern: [spelled(value) for value in task.missing]
        for label, task in tasks.items()
        if task.missing and task.table in (None, name)
        for pattern in _patterns(label, task)
    }

    def blanks(column: str) -> list[str]:
        return [
            word
            for pattern, own in words.items()
            if column == pattern or fnmatchcase(column, pattern)
            for word in own
            if not _number(word)  # those are told from the others when the labels are read
        ]

    return read(spec.source, name, base, [*text, *([data.id] if data.id else [])], blanks)


def _patterns(label: str, task: TaskSpec) -> Sequence[str]:
    if task.columns is None:
        return [task.target or label]
    return [task.columns] if isinstance(task.columns, str) else task.columns


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _check_ids(data: DataSpec, tables: Sequence[Table]) -> None:
    if data.id is not None and not any(data.id in table.schema for table in tables):
        known = [column for table in tables for column in table.columns]
        where = tables[0].place if len(tables) == 1 else "no table"
        said = f"{where}: no column" if len(tables) == 1 else f"{where} has a column"
        raise DataError(
            f"{said} {data.id!r} for the ids{did_you_mean(data.id, known)}", ("data", "id")
        )


def _apart(data: DataSpec, tables: Mapping[str, Table]) -> dict[str, set[str]]:
    """The columns of each table that are no inputs, targets not yet among them."""
    found = {}
    for name, table in tables.items():
        used = {split_column(table, data.split)}
        if data.id is not None and data.id in table.schema:
            used.add(data.id)
        if data.intervals is not None:
            used.add(table.need(data.intervals, "the intervals"))
        found[name] = {column for column in used if column is not None}
    return found


def _collected(
    table: Table, data: DataSpec, apart: set[str], targets: Sequence[Target]
) -> tuple[pl.DataFrame, Array | None]:
    """The columns that are needed as a whole, small, and a number for each row's id."""
    own = [target for target in targets if target.table.name == table.name]
    conditions = {name for target in own for name in target.condition_columns}
    named = {each for t in own for each in (t.column, t.spec.by, t.spec.weight, t.spec.group)}
    whole = (apart - {data.id}) | conditions | (named - {None}) | ({data.intervals} - {None})
    whole |= {split_column(table, data.split)} - {None}
    has_id = data.id is not None and data.id in table.schema
    names = [name for name in table.schema if name in whole]
    asked = [*names, *([data.id] if has_id and data.id not in names else [])]
    if not asked:
        return pl.DataFrame(height=table.rows), None
    frames = []
    ids = np.empty(table.rows, dtype=np.uint64) if has_id else None
    for frame, start in _numbered(table, [str(name) for name in asked]):
        if ids is not None:
            ids[start : start + len(frame)] = _id_numbers(table, frame[str(data.id)], start)
        frames.append(frame.select(pl.col(names)).with_columns(_small(frame, names)))
    found = pl.concat(frames, how="vertical_relaxed") if names else pl.DataFrame(height=table.rows)
    return found, ids


def _numbered(table: Table, names: list[str]) -> Iterator[tuple[pl.DataFrame, int]]:
    start = 0
    for chunk in table.chunks(names, size=1 << 16):
        yield chunk.frame, start
        start += len(chunk)


def _small(frame: pl.DataFrame, names: Sequence[str]) -> list[pl.Series]:
    """Whole numbers in as few bytes as they need."""
    return [frame[name].shrink_dtype() for name in names if frame.schema[name].is_integer()]


def _id_numbers(table: Table, ids: pl.Series, start: int) -> Array:
    if ids.null_count():
        row = start + int(ids.is_null().arg_max() or 0)
        raise DataError(
            f"{table.where(row)}: the id {ids.name!r} is missing; every row needs one",
            ("data", "id"),
        )
    if ids.dtype.is_nested():
        raise DataError(f"{table.place}: the id {ids.name!r} is a list; an id is one value a row")
    texts = ids.cast(pl.String)
    plain = texts.str.len_bytes().sum() == texts.str.len_chars().sum()
    return numbers_of(texts if plain else texts.str.normalize("NFC"))


def repeated(ids: Array | None) -> bool:
    """Whether any id stands in two rows."""
    if ids is None:
        return False
    shares = 1 << max(0, len(ids).bit_length() - 20)  # looked at in turn, to bound memory
    which = ids.view(np.uint16)[::4] & np.uint16(min(shares, 1 << 16) - 1)
    for share in range(min(shares, 1 << 16)):
        ordered = np.sort(ids[which == share])
        if (ordered[1:] == ordered[:-1]).any():
            return True
    return False


def told_units(rows: Rows) -> Any:
    """The bootstrap units where ids repeat and nothing is declared: the ids. None otherwise."""
    if rows.data.intervals is not None or not any(map(repeated, rows.ids)):
        return None
    every = [
        np.arange(low, high, dtype=np.uint64) if own is None else own
        for own, low, high in zip(rows.ids, rows.starts, rows.starts[1:], strict=False)
    ]
    return np.unique(np.concatenate(every), return_inverse=True)[1].astype(np.int64)
