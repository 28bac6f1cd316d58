"""Columns: which role each plays, of which type, and why; inferred, shown, overridable."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from plait.data.declare import TYPES, TableSpec
from plait.data.errors import DataError
from plait.data.hashing import check_buckets
from plait.data.profile import Profile, family_of
from plait.data.sources import Table
from plait.method import did_you_mean

_ID = re.compile(r"(^|[^a-z])(ids?|uuid|guid|key|index|idx|rownum|unnamed)([^a-z]|$)|[a-z]I[dD]$")
_CODE = re.compile(r"(^|[^a-z])(code|id|type|category|class|zip|zipcode|postcode)$|[a-z]I[dD]$")
MOST_CATEGORIES = 1_000
TEXT_HINT = {
    "number": ("numeric", "categorical", "hashed", "ignored"),
    "string": (
        "categorical",
        "hashed",
        "text",
        "image",
        "numeric",
        "vector",
        "list",
        "sequence",
        "ignored",
    ),
    "array": ("vector", "image", "list", "sequence", "ignored"),
    "items": ("list", "sequence", "vector", "ignored"),
    "file": ("image", "ignored"),
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a column (or several, joined) is used for: under which name, as which type, and why."""

    table: str
    columns: tuple[str, ...]
    role: str
    type: str
    reason: str


def roles_of(
    table: Table, spec: TableSpec, reserved: Collection[str], targets: Collection[str] = ()
) -> dict[str, tuple[str, ...]]:
    """The roles of a table's inputs and their columns; ``reserved`` columns have other uses."""
    for column in spec.ignore:
        if not has_match(table, column):
            table.need(column, "ignore")
    ignored = {name for name in table.columns if any(fits(name, each) for each in spec.ignore)}
    if spec.inputs is None:
        return {
            name: (name,) for name in table.columns if name not in reserved and name not in ignored
        }
    if not isinstance(spec.inputs, Mapping):
        inputs: Mapping[str, str | Sequence[str]] = {name: name for name in spec.inputs}
    else:
        inputs = spec.inputs
    roles: dict[str, tuple[str, ...]] = {}
    for role, asked in inputs.items():
        columns = tuple(_matched(table, role, asked))
        for name in columns:
            if name in targets:
                raise DataError(f"{table.place}: {name!r} is a target, so it cannot be an input")
        if len(columns) > 1 and family_of(table, columns[0]) == "number":
            # Several numbers under one role are told apart by their places, in every table alike.
            roles.update({f"{role}[{i}]": (name,) for i, name in enumerate(columns)})
        else:
            roles[role] = columns
    return roles


def _matched(table: Table, role: str, asked: str | Sequence[str]) -> Iterable[str]:
    for each in [asked] if isinstance(asked, str) else asked:
        if each in table.columns:
            yield each
            continue
        found = [name for name in table.columns if fnmatchcase(name, each)]
        if not found:
            table.need(each, f"input {role!r}")
        yield from found


def fits(name: str, pattern: str) -> bool:
    """Whether a column is meant: by its name, or by a pattern with * ? [ ]."""
    return name == pattern or fnmatchcase(name, pattern)


def has_match(table: Table, pattern: str) -> bool:
    """Whether any column of the table fits."""
    return any(fits(name, pattern) for name in table.columns)


def declared_type(table: Table, spec: TableSpec, role: str, columns: Sequence[str]) -> str | None:
    """The type the user gave a role or its column; :class:`DataError` for one that does not fit."""
    given = spec.types.get(role)
    for column in columns:
        given = given or spec.types.get(column)
    if given is None:
        return None
    if given not in TYPES:
        raise DataError(
            f"{table.place}: no type {given!r} for {role!r}{did_you_mean(given, TYPES)}"
        )
    allowed = TEXT_HINT[family_of(table, columns[0])]
    if given not in allowed:
        raise DataError(
            f"{table.place}: {role!r} cannot be {given}; it can be {', '.join(allowed)}"
        )
    return given


def check_types(table: Table, spec: TableSpec, roles: Collection[str]) -> None:
    """Every name under ``types`` must be a column or a role, under ``buckets`` a hashed one."""
    for name in spec.types:
        if name not in roles and name not in table.columns:
            known = [*roles, *table.columns]
            raise DataError(
                f"{table.place}: types: no column or role {name!r}{did_you_mean(name, known)}"
            )
    check_buckets(table.place, spec.buckets)
    hashed = [name for name, kind in spec.types.items() if kind == "hashed"]
    for name in spec.buckets:
        if name not in hashed:
            raise DataError(
                f"{table.place}: buckets: {name!r} is not hashed{did_you_mean(name, hashed)}; "
                f"declare types: {{{name}: hashed}}"
            )


def counted(family: str, name: str, declared: str | None) -> bool:
    """Whether the values of a column must be counted to know its type."""
    if declared in ("list", "sequence") or family == "items":
        return True
    return family == "number" and (
        declared in ("categorical", "hashed")
        or bool(_CODE.search(name) or _ID.search(name.lower()))
    )


def infer(profile: Profile, name: str) -> tuple[str, str]:
    """The type of a column and the reason, from its name and its training rows."""
    if profile.missing == profile.rows and profile.family in ("number", "string"):
        return "ignored", "empty in the training rows"
    if profile.constant:
        return "ignored", "constant in the training rows"
    match profile.family:
        case "number":
            return _number(profile, name)
        case "string":
            return _string(profile, name)
        case "file":
            return "image", "images as bytes"
        case "items":
            return "list", f"lists of {profile.distinct} different items"
    if len(profile.shape) == 1:
        return "vector", f"arrays of {profile.shape[0]}"
    return "image", "arrays of " + " × ".join(map(str, profile.shape))


def _number(profile: Profile, name: str) -> tuple[str, str]:
    if profile.whole and profile.values is not None:
        if _ID.search(name) and profile.unique:
            return "ignored", "an id: every row has its own"
        if _CODE.search(name) and profile.distinct <= MOST_CATEGORIES:
            return "categorical", f"{profile.distinct} codes"
    span = f"{profile.low:.4g} to {profile.high:.4g}"
    share = f", {profile.missing / profile.rows:.0%} missing" if profile.missing else ""
    return "numeric", span + share


def _string(profile: Profile, name: str) -> tuple[str, str]:
    present = profile.rows - profile.missing
    words, letters = profile.words / present, profile.letters / present
    if profile.files >= 0.9 * present:
        return "image", "paths of images"
    if _ID.search(name) and profile.unique and words < 1.5:
        return "ignored", "an id: every row has its own"
    few = profile.distinct <= max(MOST_CATEGORIES, present // 100)
    if (
        few
        and profile.distinct <= present / 2
        and not (words >= 4 and profile.distinct > present / 5)
    ):
        return "categorical", f"{profile.distinct} values"
    shown = f"{words:.0f} words" if words >= 1.5 else f"{letters:.0f} characters"
    return "text", f"mostly different, about {shown} each"


def table_of(columns: Sequence[Column]) -> str:
    """The columns as a short readable table."""
    several = len({column.table for column in columns}) > 1
    rows = [("column", "type", "because")]
    for column in columns:
        name = " + ".join(column.columns)
        name += f" → {column.role}" if (column.role,) != column.columns else ""
        rows.append((f"{column.table}.{name}" if several else name, column.type, column.reason))
    wide = [max(len(row[place]) for row in rows) for place in (0, 1)]
    return "\n".join(
        f"{name:<{wide[0]}}  {kind:<{wide[1]}}  {reason}".rstrip() for name, kind, reason in rows
    )
