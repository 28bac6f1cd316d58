"""Splits: which rows train, which validate, which test; decided before anything is fitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from plait.data.declare import SplitSpec
from plait.data.errors import DataError
from plait.data.profile import as_text
from plait.data.seeding import generator
from plait.data.sources import Table
from plait.data.stores import Array, mix
from plait.method import did_you_mean

NAMES: Mapping[str, int] = {
    **dict.fromkeys(("train", "training", "tr", "trn", "fit"), 0),
    **dict.fromkeys(("valid", "validation", "val", "dev", "development", "eval"), 1),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "held_out"), 2),
    **dict.fromkeys(("", "none", "unused", "ignore"), -1),
}
HELD_OUT = 0.1
# Written so, earlier moments come first in the order of the alphabet.
_MOMENT = r"^\d{4}(-\d\d(-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?)?)?$"


def split_column(table: Table, spec: SplitSpec | None) -> str | None:
    """The table's column that the split needs, if any."""
    if spec is None:
        return "split" if "split" in table.schema else None
    if spec.kind == "random":
        return None
    if spec.kind == "column":
        return table.need(spec.by or "split", "the split")
    if spec.by is None:
        raise DataError(f"a {spec.kind} split needs a column: by")
    return table.need(spec.by, "the split")


def split_rows(
    tables: Sequence[Table],
    frames: Sequence[pl.DataFrame],
    spec: SplitSpec | None,
    numbers: Sequence[Array | None],
) -> tuple[list[Array], list[str]]:
    """The split of every table's rows (0 train, 1 valid, 2 test, -1 unused), and it in words.

    Rows with the same id are kept together, in all tables, where the split is drawn at random.
    ``frames`` hold the columns of :func:`split_column`, ``numbers`` a number for each row's id.
    """
    rule = spec or SplitSpec()
    if abs(sum(rule.fractions) - 1) > 1e-6 or min(rule.fractions) < 0 or rule.fractions[0] == 0:
        raise DataError(
            f"split: the fractions {list(rule.fractions)} must be positive and sum to 1"
        )
    found: list[Array] = []
    facts: list[str] = []
    columns = [split_column(table, spec) for table in tables]
    if rule.kind == "grouped":
        return _grouped(tables, frames, rule), [f"Split by groups of {rule.by}, seed {rule.seed}."]
    for table, frame, column, ids in zip(tables, frames, columns, numbers, strict=True):
        if column is not None and (spec is None or rule.kind == "column"):
            split = _by_column(table, frame[column], rule.names)
            said = f"split by column {column!r}"
            if not (split == 1).any():
                _carve(table, split, rule.seed, ids)
                said += f"; it has no valid rows, so {HELD_OUT:.0%} of the train rows were taken"
        elif rule.kind == "time":
            split, said = _by_time(table, frame[str(column)], rule), f"split by time ({column})"
        elif rule.kind == "stratified":
            split = _stratified(table, frame[str(column)], rule)
            said = f"split at random, alike for each {column}, seed {rule.seed}"
        else:
            split = _drawn(table, ids, rule)
            said = f"split at random, seed {rule.seed}"
        _check(table, split)
        found.append(split)
        counts = [int((split == part).sum()) for part in range(3)]
        facts.append(
            f"{table.place}: {table.rows:,} rows, {said}: "
            f"{counts[0]:,} train, {counts[1]:,} valid, {counts[2]:,} test."
        )
    return found, facts


def _check(table: Table, split: Array) -> None:
    if not (split == 0).any():
        raise DataError(f"{table.place}: the split leaves no training rows")


def _random(place: Array, fractions: Sequence[float]) -> Array:
    """``place`` [n] from 0 to 1 cut at the fractions."""
    edges = np.cumsum(fractions)[:2] - 1e-9
    return np.searchsorted(edges, place, side="right").astype(np.int8)


def _order(table: Table, ids: Array | None, seed: int) -> Array:
    """Where each row stands in a random order, from 0 to 1; decided by its id if it has one."""
    if ids is None:
        order = generator(seed, "split", table.name).permutation(table.rows)
        place = np.empty(table.rows)
        place[order] = np.arange(table.rows) / table.rows
        return place
    drawn = _numbers(ids, seed)
    # Ranks, not the numbers themselves: so the fractions are met to the row.
    ordered = _distinct(drawn.copy())
    place = np.empty(len(drawn))
    for start in range(0, len(drawn), 1 << 20):
        piece = slice(start, start + (1 << 20))
        place[piece] = np.searchsorted(ordered, drawn[piece]) / len(ordered)
    return place


def _distinct(numbers: Array) -> Array:
    """The different numbers in order; sorted in place, which takes the least memory."""
    numbers.sort()
    keep = np.ones(len(numbers), dtype=bool)
    keep[1:] = numbers[1:] != numbers[:-1]
    return numbers if keep.all() else numbers[keep]


def _drawn(table: Table, ids: Array | None, rule: SplitSpec) -> Array:
    """Every row's part, at random."""
    if ids is None:
        return _random(_order(table, None, rule.seed), rule.fractions)
    ordered = _distinct(_numbers(ids, rule.seed))
    edges = np.ceil((np.cumsum(rule.fractions)[:2] - 1e-9) * len(ordered)).astype(np.int64)
    last = np.uint64(2**64 - 1)
    cuts = [ordered[edge] if edge < len(ordered) else last for edge in edges]
    del ordered
    split = np.empty(len(ids), dtype=np.int8)
    for piece, drawn in _drawn_numbers(ids, rule.seed):  # again, not kept: they are as large as ids
        split[piece] = (drawn >= cuts[0]).astype(np.int8) + (drawn >= cuts[1])
    return split


def _numbers(ids: Array, seed: int) -> Array:
    """A random number for each id, the same wherever it stands."""
    found = np.empty_like(ids)
    for piece, drawn in _drawn_numbers(ids, seed):
        found[piece] = drawn
    return found


def _drawn_numbers(ids: Array, seed: int) -> Iterator[tuple[slice, Array]]:
    """The same numbers piece by piece."""
    key = mix(np.array([seed % 2**64], dtype=np.uint64))
    for start in range(0, len(ids), 1 << 20):
        piece = slice(start, start + (1 << 20))
        yield piece, mix(ids[piece] ^ key)


def _by_column(table: Table, values: pl.Series, names: Mapping[str, str]) -> Array:
    mapping: dict[str, int] = dict(NAMES)
    for value, meaning in names.items():
        # Either {train: [..values..]} or {value: train}: both say the same.
        if meaning not in NAMES:
            raise DataError(f"split: no part {meaning!r}{did_you_mean(meaning, list(NAMES)[:1])}")
        mapping[str(value).strip().lower()] = NAMES[meaning]
    text = as_text(values).fill_null("").str.strip_chars().str.to_lowercase()
    codes = text.replace_strict(
        pl.Series(list(mapping)), pl.Series(list(mapping.values()), dtype=pl.Int8),
        default=None, return_dtype=pl.Int8,
    )  # fmt: skip
    unknown = np.flatnonzero(codes.is_null().to_numpy())
    if len(unknown):
        row = int(unknown[0])
        hint = did_you_mean(str(text[row]), [name for name in mapping if name])
        raise DataError(
            f"{table.where(row)}: split {values[row]!r} is not train, valid or test{hint}"
        )
    return codes.to_numpy().copy()


def _carve(table: Table, split: Array, seed: int, ids: Array | None) -> None:
    place = _order(table, ids, seed)
    train = np.flatnonzero(split == 0)
    if len(train) >= 10:
        edge = np.quantile(place[train], 1 - HELD_OUT)
        split[train[place[train] > edge]] = 1


def _by_time(table: Table, values: pl.Series, rule: SplitSpec) -> Array:
    _complete(table, values, "time")
    if values.dtype == pl.String:
        odd = values.str.contains(_MOMENT).not_()
        if odd.any():
            row = int(odd.arg_max() or 0)
            raise DataError(
                f"{table.where(row)}: {values.name!r} is {values[row]!r}, which is no time that "
                "can be ordered; write 2024-01-31 or 2024-01-31 18:30, or numbers",
                ("data", "split"),
            )
    ranks = values.rank("max").to_numpy() / len(values)
    # Rows of the same moment have the same rank: no moment lies in two parts.
    edges = np.cumsum(rule.fractions)[:2] + 1e-9
    return np.searchsorted(edges, ranks, side="left").astype(np.int8)


def _complete(table: Table, values: pl.Series, kind: str) -> None:
    if values.null_count():
        row = int(values.is_null().arg_max() or 0)
        raise DataError(
            f"{table.where(row)}: {values.name!r} is missing; the {kind} split needs it"
        )


def _stratified(table: Table, values: pl.Series, rule: SplitSpec) -> Array:
    strata = as_text(values).fill_null("\0").rank("dense").to_numpy()
    random = generator(rule.seed, "split", table.name)
    order = random.permutation(table.rows)
    by_value = order[np.argsort(strata[order], kind="stable")]
    edges = np.concatenate([[0], np.flatnonzero(np.diff(strata[by_value])) + 1, [table.rows]])
    size = np.diff(edges)
    # Rows of a value stand evenly between 0 and 1 from a random start: every part gets its share
    # rounded down or up, and a value with a single row trains.
    start = np.where(size > 1, random.random(len(size)), 0.0)
    place = (np.arange(table.rows) - np.repeat(edges[:-1], size) + np.repeat(start, size)) / (
        np.repeat(size, size)
    )
    split = np.empty(table.rows, dtype=np.int8)
    split[by_value] = _random(place, rule.fractions)
    return split


def _grouped(
    tables: Sequence[Table], frames: Sequence[pl.DataFrame], rule: SplitSpec
) -> list[Array]:
    by = str(rule.by)
    for table, frame in zip(tables, frames, strict=True):
        _complete(table, frame[table.need(by, "the split")], "grouped")
    together = pl.concat([as_text(frame[by]).rename(by) for frame in frames])
    counts = together.value_counts().sort(by)
    order = generator(rule.seed, "split", by).permutation(len(counts))
    size = counts["count"].to_numpy()[order]
    # The middle of a group's rows decides, so that the parts are as near the fractions as they can.
    middle = (np.cumsum(size) - size / 2) / size.sum()
    parts = _random(middle, rule.fractions)
    for part in (1, 2):
        train = np.flatnonzero(parts == 0)
        if rule.fractions[part] > 0 and not (parts == part).any() and len(train) > 1:
            parts[train[-1]] = part
    mapping = dict(zip(counts[by].gather(order).to_list(), parts.tolist(), strict=True))
    found = []
    for table, frame in zip(tables, frames, strict=True):
        text = as_text(frame[by])
        split = text.replace_strict(
            pl.Series(list(mapping)), pl.Series(list(mapping.values()), dtype=pl.Int8),
            return_dtype=pl.Int8,
        ).to_numpy()  # fmt: skip
        _check(table, split)
        found.append(split)
    return found


def sampled(
    tables: Sequence[Table], numbers: Sequence[Array | None], fraction: float
) -> list[Array]:
    """Which rows of every table to keep, at random: each time the same, by id if it has one."""
    if not 0 < fraction <= 1:
        raise DataError(f"sample: the fraction must be above 0 and at most 1, got {fraction}")
    return [_order(table, ids, -1) < fraction for table, ids in zip(tables, numbers, strict=True)]


def bootstrap_units(
    tables: Sequence[Table], frames: Sequence[pl.DataFrame], column: str | None
) -> Any:
    """The bootstrap unit of every row of all tables: the value of a column, or the row itself."""
    if column is None:
        return np.arange(sum(len(frame) for frame in frames))
    for table, frame in zip(tables, frames, strict=True):
        _complete(table, frame[table.need(column, "the intervals")], "bootstrap")
    together = pl.concat([as_text(frame[column]).rename("unit") for frame in frames])
    return together.rank("dense").to_numpy().astype(np.int64) - 1
