"""Rows that come twice: in training and again in validation or test, in one task or across tables.

Rows are compared by a number for all of their inputs, exactly and, where there is text, with case,
white space and punctuation set aside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from plait.data.records import TaskLabels
from plait.data.stores import Array

HELD = ((1, "valid"), (2, "test"))
WARNED = 0.01  # the share of held-out rows from which on copies are warned of
SHOWN = 6
# Runs of what is no letter or digit, single blanks left out: they are most, and stay as they are.
_BETWEEN = r"[^\p{L}\p{N} ][^\p{L}\p{N}]*| [^\p{L}\p{N}]+"
PIECE = 1 << 20  # rows looked at together, to bound memory


def joined(columns: Sequence[pl.Series]) -> pl.Series:
    """The texts of several columns as one; empty where missing."""
    texts = [column.cast(pl.String).fill_null("") for column in columns]
    if len(texts) == 1:
        return texts[0]
    return pl.select(pl.concat_str(texts, separator="\n")).to_series()


def normal_form(texts: pl.Series) -> pl.Series:
    """Texts in lower case, letters and digits only, words one blank apart; others as they are."""
    plain = texts.str.to_lowercase().str.replace_all(_BETWEEN, " ").str.strip_chars()
    return plain.set(plain == "", None).fill_null(texts)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of every row's inputs: ``exact`` [R] and ``loose`` [R] numbers of their values.

    ``loose`` is None where no input is text. ``schemas`` are the inputs of each table, ``starts``
    the first row of each: only tables with the same inputs are compared.
    """

    exact: Array
    loose: Array | None
    schemas: Sequence[tuple[str, ...]]
    names: Sequence[str]
    starts: Array


def overlap_facts(
    seen: Seen, labels: Mapping[str, TaskLabels], split: Array
) -> tuple[list[str], list[str]]:
    """Facts and warnings about held-out rows that the training rows hold as well."""
    facts: list[str] = []
    warnings: list[str] = []
    copies = _copies(seen.exact, labels, split)
    near = None if seen.loose is None else _copies(seen.loose, labels, split)
    labelled = _labelled(labels, len(split))
    for number, part in HELD:
        rows = labelled & (split == number)
        total = max(int(rows.sum()), 1)
        exact = int(copies[rows].sum())
        loose = exact if near is None else int(near[rows].sum())
        if not loose:
            continue
        said = (
            f"{exact:,} {part} {'row' if exact == 1 else 'rows'} ({exact / total:.1%}) "
            f"{'has' if exact == 1 else 'have'} exactly the inputs of a training "
            "row of the same task"
        )
        if loose > exact:
            said += f", {loose:,} ({loose / total:.1%}) but for case, white space and punctuation"
        _sort(
            f"{said}; if they are copies, a grouped split keeps them together",
            loose / total, facts, warnings,
        )  # fmt: skip
    _across(seen, labelled, split, facts, warnings)
    facts += _contradictions(seen.exact, labels, split)
    return facts, warnings


def _sort(said: str, share: float, facts: list[str], warnings: list[str]) -> None:
    (warnings if share >= WARNED else facts).append(f"{said}.")


def _labelled(labels: Mapping[str, TaskLabels], rows: int) -> Array:
    found = np.zeros(rows, dtype=bool)
    for own in labels.values():
        found[own.rows] = True
    return found


def _copies(hashes: Array, labels: Mapping[str, TaskLabels], split: Array) -> Array:
    """The held-out rows whose inputs some training row of the same task has. [R]"""
    found = np.zeros(len(hashes), dtype=bool)
    for own in labels.values():
        parts = split[own.rows]
        held = own.rows[parts > 0]
        found[held[_among(hashes[held], hashes, own.rows[parts == 0])]] = True
    return found


def _among(few: Array, hashes: Array, rows: Array) -> Array:
    """Which of a few numbers some ``rows`` have; a piece of them at a time. [few]"""
    if not len(few):
        return np.zeros(0, dtype=bool)
    order = np.argsort(few)
    ordered = few[order]
    met = np.zeros(len(few), dtype=bool)
    for start in range(0, len(rows), PIECE):
        piece = np.sort(hashes[rows[start : start + PIECE]])  # neighbours are searched in one place
        at = np.minimum(np.searchsorted(ordered, piece), len(few) - 1)
        met[at[ordered[at] == piece]] = True
    # Equal numbers stand side by side; the search meets the first of them.
    first = np.searchsorted(ordered, ordered)
    found = np.empty(len(few), dtype=bool)
    found[order] = met[first]
    return found


def _across(
    seen: Seen, labelled: Array, split: Array, facts: list[str], warnings: list[str]
) -> None:
    """Held-out rows of one table that are training rows of another one."""
    hashes = seen.exact if seen.loose is None else seen.loose
    pieces = [slice(low, high) for low, high in zip(seen.starts, seen.starts[1:], strict=False)]
    for i, own in enumerate(pieces if len(pieces) > 1 else []):
        train = None
        for j, other in enumerate(pieces):
            if i == j or seen.schemas[i] != seen.schemas[j]:
                continue
            if train is None:
                train = np.flatnonzero(labelled[own] & (split[own] == 0)) + int(seen.starts[i])
            for number, part in HELD:
                held = hashes[other][labelled[other] & (split[other] == number)]
                count = int(_among(held, hashes, train).sum())
                if count:
                    loosely = (
                        ""
                        if seen.loose is None
                        else (" (case, white space and punctuation set aside)")
                    )
                    said = (
                        f"{count:,} {part} rows of {seen.names[j]} ({count / len(held):.1%}) are "
                        f"training rows of {seen.names[i]}{loosely}: a shared network has seen them"
                    )
                    _sort(said, count / len(held), facts, warnings)


def _contradictions(hashes: Array, labels: Mapping[str, TaskLabels], split: Array) -> list[str]:
    """Rows with the same inputs and another label, for tasks whose labels are classes."""
    found = []
    for name, own in labels.items():
        if own.truth is not None or own.values.ndim > 1:
            continue
        if count := sum(_differing(hashes, own, split)):
            found.append((count, name))
    if not found:
        return []
    found.sort(reverse=True)
    shown = ", ".join(f"{name} ({count:,})" for count, name in found[:SHOWN])
    more = f" and {len(found) - SHOWN} more tasks" if len(found) > SHOWN else ""
    return [f"Rows with the inputs of another row but a different label: {shown}{more}."]


def _differing(hashes: Array, own: TaskLabels, split: Array) -> Iterator[int]:
    """Rows with the number of the row before them and another label, a share of all at a time."""
    keys = hashes if len(own.rows) == len(hashes) else hashes[own.rows]
    shares = 1 << max(0, len(keys).bit_length() - PIECE.bit_length())
    part = keys.view(np.uint16)[::4] & np.uint16(shares - 1)
    for share in range(shares):
        here = np.flatnonzero(part == share)
        here = here[split[own.rows[here]] >= 0]
        here = here[np.argsort(keys[here])]
        same = keys[here[1:]] == keys[here[:-1]]
        yield int((same & (own.values[here[1:]] != own.values[here[:-1]])).sum())
