"""One look at every row: encoded or only checked, and what was seen told in facts and warnings."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from plait.data.columns import Column
from plait.data.facts import column_facts, label_facts, pair_facts
from plait.data.fitting import Fitted
from plait.data.hashing import Hashed
from plait.data.inputs import Categorical, Encoding, Numeric, Text, View
from plait.data.labelling import Labelled
from plait.data.leaks import Sample, chosen, leak_warnings
from plait.data.overlaps import Seen, joined, normal_form, overlap_facts
from plait.data.preparation import Preparation
from plait.data.profile import as_numbers, as_text
from plait.data.reading import Rows
from plait.data.stores import Array, Writer, combine

THREADS = 2  # beside the one that reads


@dataclass
class Look:
    """What a look at all rows gives.

    ``encoded`` [R] are numbers of the encoded inputs (empty where texts were not encoded), ``seen``
    those of the inputs as they are; ``samples`` some training rows of each table.
    """

    writers: dict[str, Writer]
    shifts: dict[str, Array]
    exact: Array
    loose: Array | None
    encoded: list[Array] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


def look(
    rows: Rows, preparation: Preparation, columns: Sequence[Column], folder: Path | None, *,
    encode: bool,
) -> Look:  # fmt: skip
    """Read every row once. Where not to ``encode``, inputs are checked and nothing is kept of them.

    Raises :class:`plait.data.DataError` for values that cannot be used, with their row.
    """
    writers = {
        each.input.key: Writer(folder, f"{place}")
        for place, each in enumerate(preparation.encodings)
    }
    total = int(rows.starts[-1])
    texts = any(isinstance(each, Text) for each in preparation.encodings)
    found = Look(
        writers=writers,
        shifts={key: np.zeros(len(rows.tables), dtype=np.int64) for key in writers},
        exact=np.empty(total, np.uint64),
        loose=np.empty(total, np.uint64) if texts else None,
    )
    calls = (
        call
        for number in range(len(rows.tables))
        for call in _looks(found, rows, preparation, columns, number, encode=encode)
    )
    _beside(calls)
    return found


def _looks(
    found: Look, rows: Rows, preparation: Preparation, columns: Sequence[Column], number: int, *,
    encode: bool,
) -> Iterator[Callable[[], None]]:  # fmt: skip
    """Take in a table; what may be done meanwhile with each of its chunks."""
    table, start = rows.tables[number], int(rows.starts[number])
    roles = preparation.roles[table.name]
    keys = preparation.schema(table.name)
    used = [each for each in preparation.encodings if each.input.key in keys]
    for key in keys:
        found.shifts[key][number] = start - found.writers[key].count
    sampled, frames = chosen(rows.fit[number]), []
    types = _sampled_types(table.name, columns)
    for chunk in table.chunks(_columns(used, roles), rows.keep[number]):
        view = View(chunk, roles)
        arrays = _encode(found, used, view, encode=encode)
        yield partial(_number, found, used, view, arrays, start)
        start += len(view)
        if types and len(here := np.flatnonzero(sampled[chunk.rows])):
            some = chunk.frame.select(list(types))[here]
            # Made anew: texts that are taken out of a chunk keep all texts of the chunk.
            frames.append(pl.DataFrame(some.to_dict(as_series=False), schema=some.schema))
    found.samples.append(_sample(rows, number, sampled, frames, types))


def _beside(calls: Iterator[Callable[[], None]]) -> None:
    """Run calls in other threads while the next ones come; only a few wait."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[None]] = deque()
        for call in calls:
            waiting.append(pool.submit(call))
            if len(waiting) > THREADS:
                waiting.popleft().result()
        for each in waiting:
            each.result()


def _columns(used: Sequence[Encoding], roles: Mapping[str, Sequence[str]]) -> list[str]:
    wanted = [name for each in used for role in each.roles for name in roles.get(role, ())]
    return list(dict.fromkeys(wanted))


def _encode(found: Look, used: Sequence[Encoding], view: View, *, encode: bool) -> list[Array]:
    """Take in a chunk, encoded or checked; the numbers of the inputs that are arrays, for rows."""
    encoded, arrays = [], []
    for each in used:
        writer = found.writers[each.input.key]
        if encode:
            writer.add(each.encode(view))
            encoded.append(writer.hashes.pop())
        elif isinstance(each, (Numeric, Categorical, Hashed, Text)):
            writer.count += len(view)
            if isinstance(each, Numeric):
                _check_numbers(each, view)
        else:
            writer.add(each.encode(view), keep=False)
            encoded.append(writer.hashes.pop())
        if not isinstance(each, (Numeric, Categorical, Hashed, Text)):
            arrays.append(encoded[-1])
    if encode:
        found.encoded.append(combine(encoded))
    return arrays


def _number(
    found: Look, used: Sequence[Encoding], view: View, arrays: Sequence[Array], start: int
) -> None:
    """A number for each row of a chunk, combined from those of its inputs."""
    here = slice(start, start + len(view))
    plain = _plain(used, view)
    words = [
        joined([view.chunk.frame[name] for name in view.roles[each.role]])
        for each in used
        if isinstance(each, Text)
    ]
    found.exact[here] = combine([*plain, *(each.hash().to_numpy() for each in words), *arrays])
    if found.loose is not None:
        loose = [normal_form(each).hash().to_numpy() for each in words]
        found.loose[here] = combine([*plain, *loose, *arrays])


def _check_numbers(each: Numeric, view: View) -> None:
    """What encoding numbers would refuse, found without doing it."""
    columns = [view.roles[role][0] for role in each.roles if role in view.roles]
    schema = view.chunk.frame.schema
    frame = view.chunk.frame
    words = any(schema[name] == pl.String for name in columns)
    if words or any(_endless(frame[name]) for name in columns if schema[name].is_float()):
        as_numbers(view.chunk, columns)


def _endless(values: pl.Series) -> bool:
    """Whether any number is infinite: then the least or the greatest is."""
    return values.max() == math.inf or values.min() == -math.inf


def _plain(used: Sequence[Encoding], view: View) -> list[Array]:
    """A number for the numbers and categories of each row, however they are stored."""
    columns = []
    for each in used:
        for role in each.roles if isinstance(each, (Numeric, Categorical, Hashed)) else ():
            if role not in view.roles:
                continue
            values = view.chunk.frame[view.roles[role][0]]
            if not isinstance(each, Numeric) or values.dtype == pl.String:
                values = as_text(values)
            elif values.dtype.is_temporal():
                values = values.to_physical()
            columns.append(
                values.cast(pl.Float64, strict=False).alias(role)
                if isinstance(each, Numeric)
                else values.alias(role)
            )
    return [pl.DataFrame(columns).hash_rows().to_numpy()] if columns else []


def _sampled_types(table: str, columns: Sequence[Column]) -> dict[str, str]:
    """The columns that may give a target away, and their types."""
    return {
        column.columns[0]: column.type
        for column in columns
        if column.table == table and column.type in ("numeric", "categorical")
    }


def _sample(
    rows: Rows,
    number: int,
    sampled: Array,
    frames: Sequence[pl.DataFrame],
    types: Mapping[str, str],
) -> Sample:
    """The sampled rows of a table, by their numbers in the data set."""
    table, kept = rows.tables[number], rows.keep[number]
    at = np.flatnonzero(sampled if kept is None else sampled[kept])
    return Sample(
        table=table.place,
        rows=at + int(rows.starts[number]),
        frame=pl.concat(frames) if frames else pl.DataFrame(),
        types=types if frames else {},
    )


def told(
    rows: Rows, labelled: Labelled, fitted: Fitted, found: Look
) -> tuple[list[str], list[str]]:
    """Everything there is to say before training: facts, and warnings."""
    split = np.concatenate(rows.splits).astype(np.int8)
    facts, warnings = label_facts(labelled.tasks, labelled.labels, split, labelled.possible)
    seen = Seen(
        exact=found.exact,
        loose=found.loose,
        schemas=[tuple(sorted(own)) for own in fitted.roles],
        names=[table.name if len(rows.tables) > 1 else table.place for table in rows.tables],
        starts=rows.starts,
    )
    repeated, copies = overlap_facts(seen, labelled.labels, split)
    for number, part in ((1, "valid"), (2, "test")):
        if not (split == number).any():
            warnings.insert(0, f"There are no {part} rows.")
    leaks = [each for number in range(len(rows.tables))
             for each in _leaks(rows, labelled, found, number)]  # fmt: skip
    return (
        [
            *rows.facts, *column_facts(fitted.columns), *facts,
            *pair_facts(labelled.labels, len(split)), *labelled.facts, *repeated,
        ],
        [*warnings, *copies, *leaks],
    )  # fmt: skip


def _leaks(rows: Rows, labelled: Labelled, found: Look, number: int) -> list[str]:
    sample = found.samples[number]
    if not len(sample.rows):
        return []
    targets, by = {}, {}
    for name, own in labelled.labels.items():
        wanted = sample.rows.astype(own.rows.dtype)  # else the rows are copied to be searched
        at = np.minimum(np.searchsorted(own.rows, wanted), len(own.rows) - 1)
        places = np.flatnonzero(own.rows[at] == wanted)
        if len(places) and own.values.ndim == 1:
            targets[name] = (places, own.values[at[places]], own.truth is None)
    for target in rows.targets:
        if target.spec.by is not None and target.table.name == rows.tables[number].name:
            names = as_text(rows.frames[number][target.spec.by]).fill_null("")
            own_rows = sample.rows - int(rows.starts[number])
            by[target.spec.by] = names.gather(own_rows).rank("dense").to_numpy()
    return leak_warnings(sample, targets, by)
