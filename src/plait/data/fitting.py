"""Fitting: the training rows decide the type of each column and the scales of each input."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plait.data.columns import (
    Column,
    check_types,
    counted,
    declared_type,
    infer,
    roles_of,
)
from plait.data.declare import TableSpec
from plait.data.errors import DataError
from plait.data.hashing import Hashed
from plait.data.inputs import (
    MOST_CATEGORIES,
    Categorical,
    Encoding,
    Image,
    Items,
    Numeric,
    Text,
    Vector,
    ranked,
)
from plait.data.profile import Profile, as_numbers, family_of
from plait.data.sequences import Ordered
from plait.data.sources import Table
from plait.data.stores import Array
from plait.data.text import Bag, Tokens, text_encoding

TEXT_TOKENS = 128  # a rough guess of tokens a text, to decide between memory and files


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The encodings, the roles each table has of them, what each column is, and bytes a table."""

    encodings: tuple[Encoding, ...]
    roles: Sequence[Mapping[str, tuple[str, ...]]]
    columns: Sequence[Column]
    bytes: Sequence[int]


@dataclass
class _Role:
    """One role over all tables: its declared type, and what the training rows show."""

    declared: str | None
    profile: Profile
    columns: tuple[str, ...]
    buckets: int | None = None
    tables: list[int] = field(default_factory=list)
    type: str = ""
    reason: str = ""


def text_form(spelled: str | Mapping[str, Any] | None) -> Mapping[str, Any]:
    """How texts are read, as ``{"bag": {…}}`` or ``{"transformer": {…}}``."""
    if isinstance(spelled, str):
        return {spelled: {}}
    return spelled or {"bag": {}}


def fit_inputs(
    tables: Sequence[Table],
    specs: Mapping[str, TableSpec],
    reserved: Sequence[Collection[str]],
    targets: Sequence[Collection[str]],
    train: Sequence[Array],
    text: Mapping[str, Any],
    base: Path | None,
) -> Fitted:
    """Look once at the training rows of every table and fit one encoding for each input.

    ``reserved`` columns of each table, ``targets`` among them, are no inputs; ``train`` [rows]
    marks its training rows.
    """
    roles: list[dict[str, tuple[str, ...]]] = []
    found: dict[str, _Role] = {}
    for number, table in enumerate(tables):
        own = roles_of(table, specs[table.name], reserved[number], targets[number])
        check_types(table, specs[table.name], own)
        roles.append(own)
        for role, columns in own.items():
            _declare(found, role, table, specs[table.name], columns)
            found[role].tables.append(number)
    for number, table in enumerate(tables):
        _look(table, roles[number], found, train[number])
    for role, each in found.items():
        _decide(role, each)
    encodings = _encodings(found, len(tables), text, base)
    kept = {name for each in encodings for name in each.roles}
    told = [
        Column(
            table=table.name, columns=names, role=role,
            type=found[role].type, reason=found[role].reason,
        )
        for table, own in zip(tables, roles, strict=True)
        for role, names in own.items()
    ]  # fmt: skip
    used = [{role: own[role] for role in own if role in kept} for own in roles]
    for table, own in zip(tables, used, strict=True):
        if not own:
            raise DataError(f"{table.place}: no column is left as an input")
    sizes = [table.rows * _bytes(encodings, own) for table, own in zip(tables, used, strict=True)]
    return Fitted(encodings=encodings, roles=used, columns=told, bytes=sizes)


def _declare(
    found: dict[str, _Role], role: str, table: Table, spec: TableSpec, columns: tuple[str, ...]
) -> None:
    families = {family_of(table, column) for column in columns}
    declared = declared_type(table, spec, role, columns)
    if len(columns) > 1 and families != {"string"}:
        raise DataError(f"{table.place}: role {role!r} joins columns that are not all text")
    if len(columns) > 1:
        declared = declared or "text"
    family = families.pop()
    buckets = next((spec.buckets[n] for n in (role, *columns) if n in spec.buckets), None)
    if role not in found:
        profile = Profile(family, count=counted(family, columns[0], declared))
        found[role] = _Role(declared, profile, columns, buckets)
        return
    other = found[role]
    if other.profile.family != family:
        raise DataError(
            f"{table.place}: {role!r} is stored as {family} here and as {other.profile.family} in "
            "another table; rename one, or give them roles under inputs"
        )
    if declared and other.declared and declared != other.declared:
        raise DataError(f"role {role!r} is declared {other.declared} and {declared}")
    if buckets and other.buckets and buckets != other.buckets:
        raise DataError(f"role {role!r} has {other.buckets} buckets and {buckets}")
    other.buckets = other.buckets or buckets
    if declared in ("categorical", "hashed", "list", "sequence") and other.profile.values is None:
        other.profile = Profile(family, count=True)
    other.declared = other.declared or declared


def _look(
    table: Table, roles: Mapping[str, tuple[str, ...]], found: Mapping[str, _Role], train: Array
) -> None:
    seen = {role: names for role, names in roles.items() if found[role].declared != "ignored"}
    columns = list(dict.fromkeys(names[0] for names in seen.values()))
    numeric = [role for role in seen if _is_numeric(found[role])]
    for chunk in table.chunks(columns, train):
        numbers = as_numbers(chunk, [seen[role][0] for role in numeric])
        for place, role in enumerate(numeric):
            values = chunk.frame[seen[role][0]]
            found[role].profile.see_numbers(numbers[:, place], values)
        for role, names in seen.items():
            if not _is_numeric(found[role]):
                found[role].profile.see(chunk, names, declared=found[role].declared)


def _is_numeric(role: _Role) -> bool:
    return role.profile.family == "number" or role.declared == "numeric"


def _decide(role: str, each: _Role) -> None:
    if each.declared is not None:
        each.type, each.reason = each.declared, "declared"
        return
    each.type, each.reason = infer(each.profile, each.columns[0])
    if each.type == "image" and each.profile.family == "string":
        raise DataError(
            f"{role!r} holds paths of image files; declare types: {{{role}: image}} to read "
            "them, or ignored"
        )


def _encodings(
    found: Mapping[str, _Role], tables: int, text: Mapping[str, Any], base: Path | None
) -> tuple[Encoding, ...]:
    by_type: dict[str, dict[str, Profile]] = {}
    for role, each in found.items():
        by_type.setdefault(each.type, {})[role] = each.profile
    encodings: list[Encoding] = []
    if numeric := by_type.get("numeric"):
        partial = {role for role in numeric if len(found[role].tables) < tables}
        encodings.append(Numeric.fit(numeric, partial))
    if categorical := by_type.get("categorical"):
        encodings.append(Categorical.fit(categorical))
    encodings += [
        Hashed.fit(role, profile, found[role].buckets)
        for role, profile in by_type.get("hashed", {}).items()
    ]
    loaded: dict[str, Bag | Tokens] = {}
    for role, profile in by_type.get("text", {}).items():
        coding = loaded.get("transformer") or text_encoding(text, profile, base)
        if isinstance(coding, Tokens):
            loaded["transformer"] = coding
        encodings.append(Text(role=role, coding=coding))
    encodings += [Image.fit(role, profile) for role, profile in by_type.get("image", {}).items()]
    encodings += [
        Vector(role=role, width=_width(profile))
        for role, profile in by_type.get("vector", {}).items()
    ]
    encodings += [Items.fit(role, profile) for role, profile in by_type.get("list", {}).items()]
    encodings += [
        Ordered(role=role, values=tuple(ranked(profile)[:MOST_CATEGORIES]))
        for role, profile in by_type.get("sequence", {}).items()
    ]
    return tuple(encodings)


def _width(profile: Profile) -> int:
    width = 1
    for length in profile.shape:
        width *= length
    return width


def _bytes(encodings: Sequence[Encoding], roles: Collection[str]) -> int:
    """About how many bytes a row of a table takes."""
    total = 0
    for each in encodings:
        if any(role in roles for role in each.roles):
            count = TEXT_TOKENS
            for length in each.input.shape:
                count *= max(length, 1)
            total += count * 4 // (1 if each.input.worded else TEXT_TOKENS)
    return total
