"""Loading: from declarations to a data set; everything is checked before anything is computed."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plait.data.dataset import Dataset, Stored, Told
from plait.data.declare import DataSpec, TaskSpec
from plait.data.errors import DataError
from plait.data.fitting import Fitted, fit_inputs, text_form
from plait.data.labelling import Labelled, label
from plait.data.looking import Look, look, told
from plait.data.positions import check_positions
from plait.data.preparation import Preparation
from plait.data.reading import Rows, read_rows, told_units
from plait.data.records import RecordStore
from plait.data.splits import bootstrap_units
from plait.data.stores import Array

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
        rows = read_rows(data, tasks, sample, base, all_train=all_train)
        found = label(rows, lenient=sample is not None)
        fitted = fit_inputs(
            rows.tables, data.tables, rows.reserved, rows.labels, rows.fit, text_form(text), base
        )
        return _assemble(rows, found, fitted, cache, memory, reload)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"the data cannot be read: {error}") from error


def _assemble(
    rows: Rows, found: Labelled, fitted: Fitted, cache: Path | None, memory: int, reload: Any
) -> Dataset:
    preparation = Preparation.of(fitted, rows.tables, found.routes)
    folder = None
    if sum(fitted.bytes) > memory:
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="plait-inputs-", dir=cache))
    try:
        seen = look(rows, preparation, fitted.columns, folder, encode=True)
        stored = StoredInputs.of(preparation, seen)
        check_positions(rows, found, preparation, stored)
    except BaseException:
        _remove(folder)
        raise
    split = np.concatenate(rows.splits).astype(np.int8)
    facts, warnings = told(rows, found, fitted, seen)
    table = np.repeat(np.arange(len(rows.tables)), np.diff(rows.starts)).astype(np.int16)
    records = {
        key: RecordStore([found.labels[name] for name in group.tasks], len(split), group.place)
        for key, group in found.tasks.groups.items()
    }
    units, hashes = _units(rows), [np.concatenate(seen.encoded)]
    if rows.data.intervals is not None:  # results on other units are not comparable
        hashes.append(units)
    dataset = Dataset(
        tasks=found.tasks,
        preparation=preparation,
        stored=stored,
        schemas=[preparation.schema(name) for name in preparation.tables],
        records=records,
        split=split,
        table=table,
        ids=partial(_ids, [rows.names(number) for number in range(len(rows.tables))]),
        units=units,
        fingerprint=_fingerprint(found, preparation, split, *hashes),
        told=Told(facts=facts, warnings=warnings, columns=fitted.columns),
        reload=reload,
    )
    # The files live as long as the stores that map them: data sets made from this one share those.
    weakref.finalize(stored, _remove, folder)
    return dataset


class StoredInputs(dict[str, Stored]):
    """The stores by key; a class of its own, so that its end can be noticed."""

    @classmethod
    def of(cls, preparation: Preparation, found: Look) -> StoredInputs:
        """The stores of everything that was encoded."""
        return cls(
            (key, Stored(found.writers[key].store(each.finish), found.shifts[key]))
            for each in preparation.encodings
            for key in [each.input.key]
        )


def _remove(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _ids(named: Sequence[pl.Series]) -> Array:
    """The ids of all rows as text."""
    texts = [ids.cast(pl.String).str.normalize("NFC").to_numpy() for ids in named]
    return np.concatenate([text.astype(np.str_) for text in texts])


def _units(rows: Rows) -> Array:
    """The bootstrap unit of every row: as declared, or the id where ids repeat, or the row."""
    units = told_units(rows)
    if units is not None:
        return np.asarray(units)
    return np.asarray(bootstrap_units(rows.tables, rows.frames, rows.data.intervals))


def _fingerprint(found: Labelled, preparation: Preparation, split: Array, *hashes: Array) -> str:
    digest = blake2b(digest_size=16)
    digest.update(json.dumps(preparation.to_json(), sort_keys=True).encode())
    digest.update(json.dumps([task.to_json() for task in found.tasks]).encode())
    arrays = [split, *hashes]
    for name in found.tasks.names:
        labels = found.labels[name]
        arrays += [labels.rows, labels.values]
        arrays += [each for each in (labels.weight, labels.group) if each is not None]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
