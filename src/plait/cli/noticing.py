"""What ``plait init`` notices about a table: things a study says that no single value shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from plait.data.sources import Table

HEAD = 20_000  # rows looked at
_OWNER = re.compile(
    r"(^|[^a-z])(user|patient|subject|person|customer|client|member|mol|molecule|compound|smiles|"
    r"session|group|family|site|hospital|author|speaker|writer|household|device|video|document)"
    r"([^a-z]|$)|[^a-z]id$|[a-z]I[dD]$",
    re.IGNORECASE,
)
_IMAGE = r"(?i)\.(png|jpe?g|bmp|gif|tiff?|webp|pgm|ppm)$"
_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
_APART = r"\s*[,;|\s]\s*"
# In brackets, or three and more: 1,234 is one number.
_VECTOR = (
    rf"^\s*[\[(]\s*{_NUMBER}({_APART}{_NUMBER})*\s*[\])]\s*$"
    rf"|^\s*{_NUMBER}({_APART}{_NUMBER}){{2,}}\s*$"
)
_LIST = r"^\s*\[.*\]\s*$|^[^\s|;]+([|;][^\s|;]+)+$"
_MOMENT = r"^\d{4}-\d\d(-\d\d)?([T ].*)?$"
SENTINELS = (-1, -9, -99, -999, -9999, 99, 999, 9999)


@dataclass
class Noticed:
    """Types that are told by the look of the values, and candidates for other uses of columns.

    ``groups`` holds columns whose values repeat and may own rows, with how many values there are.
    ``split`` is a column that says which rows train, validate and test.
    """

    types: dict[str, str] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    moments: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)
    split: str | None = None


def notice(table: Table, targets: Sequence[str], id_column: str | None) -> Noticed:
    """Look at the first rows of every column that is no target and no id."""
    names = [n for n in table.schema if n not in targets and n != id_column]
    head = next(iter(table.chunks(names, size=HEAD))).frame
    found = Noticed(split=_split(table, head))
    for name in names:
        if name == found.split:
            continue
        values = head[name].drop_nulls()
        if not len(values):
            continue
        if str(values.dtype) == "String":
            _words(found, name, values)
        elif values.dtype.is_temporal():
            found.moments.append(name)
        distinct = values.n_unique()
        few = 1 < distinct <= 0.5 * len(values) and distinct >= 10
        if few and _OWNER.search(name) and name not in found.types:
            found.groups[name] = distinct
    return found


def _split(table: Table, head: pl.DataFrame) -> str | None:
    """The column ``split``, or the first of text whose values name the parts of a split."""
    from plait.data.splits import NAMES

    if "split" in head.columns:
        return "split"
    for name in head.columns:
        if str(head.schema[name]) != "String" or len(_parts(head[name]) - set(NAMES)):
            continue
        parts = {NAMES.get(word) for word in _parts(table.collect([name])[name])}
        if {0, 2} <= parts <= set(NAMES.values()):
            return name
    return None


def _parts(values: pl.Series) -> set[str]:
    return {word.strip().lower() for word in values.drop_nulls().unique()}


def _words(found: Noticed, name: str, values: pl.Series) -> None:
    """Text that is a picture's path, a vector, a list or a moment."""

    def share(pattern: str) -> float:
        matched = values.str.contains(pattern).mean()
        return float(matched) if isinstance(matched, (int, float)) else 0.0

    if share(_IMAGE) > 0.9:
        found.types[name] = "image"
    elif share(_MOMENT) > 0.95:
        found.moments.append(name)
        found.unsure.append(f"{name} holds moments; as an input they are read as text")
    elif share(_VECTOR) > 0.95 and values.str.count_matches(_NUMBER).n_unique() == 1:
        found.types[name] = "vector"
        found.unsure.append(f"{name} is read as vectors of numbers; if it is text, write text")
    elif share(_LIST) > 0.5:
        found.types[name] = "list"
        found.unsure.append(f"{name} is read as lists of items; if it is text, write text")


def sentinels(values: pl.Series) -> list[tuple[int, float]]:
    """Numbers in a target that often mean "no label", with their share of the values."""
    values = values.drop_nulls()
    if not values.dtype.is_numeric() or values.n_unique() <= 2:
        return []
    found = []
    low, high = values.min(), values.max()
    for number in SENTINELS:
        share = float((values == number).sum()) / len(values)
        # At the edge of the values, and more often than one value among many would be.
        if share > 0.01 and number in (low, high):
            found.append((number, share))
    return found
