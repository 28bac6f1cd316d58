"""Loading: from declarations to a data set; everything is checked before anything is computed."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plait.data.dataset import Dataset, Stored, Told
from plait.data.declare import DataSpec, TableSpec, TaskSpec
from plait.data.errors import DataError
from plait.data.facts import column_facts, duplicate_facts, label_facts
from plait.data.fitting import Fitted, fit_inputs
from plait.data.inputs import Encoding, View
from plait.data.labelling import Labelled, label
from plait.data.preparation import Preparation
from plait.data.records import RecordStore
from plait.data.sources import Table, read
from plait.data.splits import bootstrap_units, sampled, split_column, split_rows
from plait.data.stores import Array, Writer, combine
from plait.data.targets import Target, find_targets
from plait.method import did_you_mean

MEMORY = 2**30


def load(
    data: DataSpec,
    tasks: Mapping[str, TaskSpec],
    *,
    text: str | Mapping[str, Any] | None = None,
    sample: float | None = None,
    base: Path | None = None,
    cache: Path | None = None,
    memory: int = MEMORY,
    all_train: bool = False,
) -> Dataset:
    """Read, check, split and prepare the tables of a study.

    ``text`` says how texts are read: ``bag``, or ``{"transformer": {"pretrained": …}}``.
    ``sample`` keeps a share of the rows. Relative paths start at ``base``. Encoded inputs above
    ``memory`` bytes lie in files under ``cache`` (None: the system's temporary folder) until the
    data set is gone. ``all_train`` makes every row a training row. Raises :class:`DataError`.
    """
    reload = partial(
        load, data, tasks, text=text, sample=sample, base=base, cache=cache, memory=memory
    )
    try:
        rows = _read_rows(data, tasks, sample, base, all_train)
        found = label(
            rows.tables,
            rows.targets,
            rows.frames,
            rows.splits,
            rows.starts,
            lenient=sample is not None,
        )
        fitted = fit_inputs(
            rows.tables, data.tables, rows.reserved, rows.labels, rows.fit, _text(text), base
        )
        return _assemble(rows, found, fitted, cache, memory, reload)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"the data cannot be read: {error}") from error


def _text(spelled: str | Mapping[str, Any] | None) -> Mapping[str, Any]:
    if isinstance(spelled, str):
        return {spelled: {}}
    return spelled or {"bag": {}}


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of all tables: what is known of them before their inputs are looked at.

    ``frames`` hold ids, targets and other columns that are not inputs; ``splits`` the part of each
    row; ``keep`` which rows stay; ``starts`` the first row of each table in the data set.
    """

    data: DataSpec
    tables: Sequence[Table]
    targets: Sequence[Target]
    reserved: Sequence[set[str]]
    labels: Sequence[set[str]]
    frames: Sequence[pl.DataFrame]
    splits: Sequence[Array]
    keep: Sequence[Array | None]
    starts: Array
    fit: Sequence[Array]
    facts: list[str]


def _read_rows(
    data: DataSpec,
    tasks: Mapping[str, TaskSpec],
    sample: float | None,
    base: Path | None,
    all_train: bool,
) -> Rows:
    if not data.tables:
        raise DataError("no tables are declared")
    tables = {name: _read(name, spec, data, base) for name, spec in data.tables.items()}
    _check_ids(data, list(tables.values()))
    apart = _apart(data, tables)
    targets = find_targets(tables, tasks, {each for used in apart.values() for each in used})
    for target in targets:
        named = (target.column, target.spec.by, target.spec.weight, target.spec.group)
        apart[target.table.name] |= {column for column in named if column is not None}
    listed = list(tables.values())
    frames = [
        table.collect([name for name in table.schema if name in apart[table.name]])
        for table in listed
    ]
    for table, frame in zip(listed, frames, strict=True):
        _unique_ids(data.id, table, frame, targets)
    splits, facts = split_rows(listed, frames, data.split, data.id)
    if all_train:
        splits = [np.minimum(split, 0) for split in splits]
        facts = ["Every row is a training row."]
    keep: list[Array | None] = [None] * len(listed)
    fit = [split == 0 for split in splits]
    if sample is not None and sample < 1:
        chosen = sampled(listed, frames, sample, data.id)
        keep = list(chosen)
        fit = [train & kept for train, kept in zip(fit, chosen, strict=True)]
        if not all(train.any() for train in fit):
            raise DataError(f"a sample of {sample:.1%} leaves a table without training rows")
        frames = [frame.filter(pl.Series(kept)) for frame, kept in zip(frames, chosen, strict=True)]
        splits = [split[kept] for split, kept in zip(splits, chosen, strict=True)]
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
        frames=frames, splits=splits, keep=keep, starts=starts, fit=fit, facts=facts,
    )  # fmt: skip


def _read(name: str, spec: TableSpec, data: DataSpec, base: Path | None) -> Table:
    text = [column for column, kind in spec.types.items() if kind in ("categorical", "text")]
    return read(spec.source, name, base, [*text, *([data.id] if data.id else [])])


def _check_ids(data: DataSpec, tables: Sequence[Table]) -> None:
    if data.id is not None and not any(data.id in table.schema for table in tables):
        known = [column for table in tables for column in table.columns]
        raise DataError(f"id: no table has a column {data.id!r}{did_you_mean(data.id, known)}")


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


def _unique_ids(
    id_column: str | None, table: Table, frame: pl.DataFrame, targets: Sequence[Target]
) -> None:
    """Refuse missing and repeated ids; in long format an id may come once for each task."""
    if id_column is None or id_column not in frame.columns:
        return
    missing = frame[id_column].is_null()
    if missing.any():
        raise DataError(
            f"{table.where(int(missing.arg_max() or 0))}: the id {id_column!r} is missing"
        )
    own = [target for target in targets if target.table.name == table.name]
    by = {target.spec.by for target in own}
    keys = [id_column, *sorted(filter(None, by))] if None not in by else [id_column]
    counts = frame.with_row_index("__row").filter(pl.struct(keys).is_duplicated())
    if not len(counts):
        return
    labels = [target.column for target in own]
    several = counts.group_by(keys, maintain_order=True).agg(
        pl.col("__row").first(),
        pl.any_horizontal(pl.col(labels).drop_nulls().n_unique() > 1).alias("contradict"),
    )
    against = several.filter("contradict")
    shown = ", ".join(map(str, (against if len(against) else several)[id_column].head(10)))
    row = int(several["__row"].min())  # type: ignore[arg-type]
    fault = f"{len(several)} ids appear more than once"
    if len(against):
        fault += f", {len(against)} of them with contradictory labels"
    raise DataError(f"{table.where(row)}: {fault}: {shown}; keep one row for each id")


def _assemble(
    rows: Rows, found: Labelled, fitted: Fitted, cache: Path | None, memory: int, reload: Any
) -> Dataset:
    preparation = Preparation(
        encodings=fitted.encodings,
        roles={table.name: roles for table, roles in zip(rows.tables, fitted.roles, strict=True)},
        routes=found.routes,
    )
    folder = None
    if sum(fitted.bytes) > memory:
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="plait-inputs-", dir=cache))
    try:
        stored, hashes = _encode(rows, preparation, folder)
    except BaseException:
        _remove(folder)
        raise
    split = np.concatenate(rows.splits).astype(np.int8)
    told = _told(rows, found, fitted, split, hashes)
    table = np.repeat(np.arange(len(rows.tables)), np.diff(rows.starts)).astype(np.int16)
    records = {
        key: RecordStore([found.labels[name] for name in group.tasks], len(split))
        for key, group in found.tasks.groups.items()
    }
    id_column = rows.data.id
    named = [frame[id_column] if id_column in frame.columns else None for frame in rows.frames]
    dataset = Dataset(
        tasks=found.tasks,
        preparation=preparation,
        stored=stored,
        schemas=[preparation.schema(name) for name in preparation.tables],
        records=records,
        split=split,
        table=table,
        ids=partial(_ids, preparation.tables, [len(part) for part in rows.splits], named),
        units=bootstrap_units(rows.tables, rows.frames, rows.data.intervals),
        fingerprint=_fingerprint(found, preparation, split, hashes),
        told=told,
        reload=reload,
    )
    # The files live as long as the stores that map them: data sets made from this one share those.
    weakref.finalize(stored, _remove, folder)
    return dataset


class StoredInputs(dict[str, Stored]):
    """The stores by key; a class of its own, so that its end can be noticed."""


def _encode(
    rows: Rows, preparation: Preparation, folder: Path | None
) -> tuple[StoredInputs, Array]:
    writers = {
        each.input.key: Writer(folder, f"{place}")
        for place, each in enumerate(preparation.encodings)
    }
    shifts = {key: np.zeros(len(rows.tables), dtype=np.int64) for key in writers}
    hashes = []
    for number, table in enumerate(rows.tables):
        keys = preparation.schema(table.name)
        roles = preparation.roles[table.name]
        used = [each for each in preparation.encodings if each.input.key in keys]
        for key in keys:
            shifts[key][number] = rows.starts[number] - writers[key].count
        for chunk in table.chunks(_columns(used, roles), rows.keep[number]):
            view = View(chunk, roles)
            for each in used:
                writers[each.input.key].add(each.encode(view))
            hashes.append(combine([writers[key].hashes.pop() for key in keys]))
    stored = StoredInputs(
        (each.input.key, Stored(writers[each.input.key].store(each.finish), shifts[each.input.key]))
        for each in preparation.encodings
    )
    return stored, np.concatenate(hashes)


def _columns(used: Sequence[Encoding], roles: Mapping[str, Sequence[str]]) -> list[str]:
    wanted = [name for each in used for role in each.roles for name in roles.get(role, ())]
    return list(dict.fromkeys(wanted))


def _remove(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _ids(names: Sequence[str], lengths: Sequence[int], own: Sequence[pl.Series | None]) -> Array:
    """The ids of all rows; rows without one are called by their number (and table)."""
    found = []
    for name, length, ids in zip(names, lengths, own, strict=True):
        if ids is None:
            prefix = f"{name}:" if len(names) > 1 else ""
            ids = prefix + pl.int_range(length, eager=True).cast(pl.String)
        found.append(ids.cast(pl.String).str.normalize("NFC").to_numpy().astype(np.str_))
    return np.concatenate(found)


def _told(rows: Rows, found: Labelled, fitted: Fitted, split: Array, hashes: Array) -> Told:
    facts, warnings = label_facts(found.tasks, found.labels, split, found.possible)
    repeated, leaks = duplicate_facts(hashes, found.labels, split)
    for number, part in ((1, "valid"), (2, "test")):
        if not (split == number).any():
            warnings.insert(0, f"There are no {part} rows.")
    return Told(
        facts=[*rows.facts, *column_facts(fitted.columns), *facts, *found.facts, *repeated],
        warnings=[*warnings, *leaks],
        columns=fitted.columns,
    )


def _fingerprint(found: Labelled, preparation: Preparation, split: Array, hashes: Array) -> str:
    digest = blake2b(digest_size=16)
    digest.update(json.dumps(preparation.to_json(), sort_keys=True).encode())
    digest.update(json.dumps([task.to_json() for task in found.tasks]).encode())
    arrays = [split, hashes]
    for name in found.tasks.names:
        labels = found.labels[name]
        arrays += [labels.rows, labels.values]
        arrays += [each for each in (labels.weight, labels.group) if each is not None]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
