"""Methods as a study spells them: checked against the index, so that naming one imports none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from plait.comparing.arguments import left_out, named_tasks
from plait.method import Entry, MethodError, describe, find, index, inlined, resolve
from plait.recipes.annotations import Setting, Type
from plait.recipes.asking import Answer
from plait.recipes.document import Document, Place, nearest, quote

Spelled = str | Mapping[str, Any]  # a name, or {name: {settings}}


def names(family: str) -> list[str]:
    """The names of a family's methods."""
    return sorted(entry.name for entry in index().values() if entry.family == family)


def lookup(family: str, name: str) -> Entry | None:
    """The index's line of a method, or one made from a class named ``package.module:Class``.

    Raises :class:`MethodError` where such a class cannot be loaded.
    """
    if ":" in name:
        return Entry.from_row(describe(find(family, name)))
    return index().get(f"{family}.{name}")


def settings(entry: Entry) -> dict[str, Setting]:
    """The settings a method accepts."""
    return {
        name: Setting(
            type=Type.of(row["type"]),
            part=row.get("part"),
            inline=row.get("inline", False),
            tasks=row.get("tasks"),
            **({"default": row["default"]} if "default" in row else {}),
        )
        for name, row in entry.settings.items()
    }


def method(place: Place, family: str) -> Spelled | None:
    """The method at a place in its shortest spelling; None where a mistake was noted.

    All names and settings in it are checked, those of methods inside methods included.
    """
    match place.value:
        case str() as name:
            return _named(place, place.under(None), family, name)
        case dict() as given if len(given) == 1:
            (name,) = given
            return _named(place, place.at(name), family, name)
    shape = f"a {family} method is its name, or {{name: {{settings}}}}; got "
    if isinstance(place.value, dict) and place.value:
        place.wrong(f"{shape}{len(place.value)} names: {', '.join(place.value)}")
    else:
        place.wrong(f"{shape}{quote(place.value)}{nearest('', names(family))}")
    return None


def _named(place: Place, inner: Place, family: str, name: str) -> Spelled | None:
    try:
        entry = lookup(family, name)
    except MethodError as error:
        place.wrong(str(error), line_of=inner)
        return None
    if entry is None:
        known = nearest(name, names(family))
        place.wrong(f"no {family} method {name!r}{known}", line_of=inner)
        return None
    return configured(entry, name, inner)


def configured(entry: Entry, name: str, place: Place) -> Spelled | None:
    """A known method with the settings at a place (null: all at their defaults)."""
    what, before = f"{entry.family} method {name!r}", len(place.document.mistakes)
    accepted = settings(entry)
    inline = next((setting for setting in accepted.values() if setting.inline), None)
    if isinstance(place.value, str) and inline is not None:
        place = place.under({place.value: None})
    if place.value is not None and not isinstance(place.value, dict):
        place.wrong(f"the settings of {what} are a mapping; got {quote(place.value)}")
        return None
    given = dict(place.value or {})
    spelled_out = inline is None or any(accepted[name].inline for name in given if name in accepted)
    key = None if spelled_out or inline is None else inlined(given, accepted, str(inline.part))
    given.pop(key, None)
    if inline is not None and len(several := _several(given, accepted, str(inline.part))) > 1:
        place.wrong(f"{what} takes one {inline.part} method; got {' and '.join(several)}")
        return None
    places = place.under(given).mapping(what, accepted) if given else {}
    built = {name: _setting(inner, accepted[name]) for name, inner in places.items()}
    if key is not None and inline is not None:
        found = _named(place, place.at(key), str(inline.part), key)
        built |= {found: {}} if isinstance(found, str) else found or {}
    for wanted, setting in accepted.items():
        if setting.required and wanted not in given and not (setting.inline and key):
            place.missing(wanted, f"{what} needs {wanted}")
    if len(place.document.mistakes) > before:
        return None
    return {name: built} if built else name


def _several(given: Mapping[str, Any], accepted: Mapping[str, Setting], family: str) -> list[str]:
    """The keys that name methods of the inline family, where one was to be given."""
    return [key for key in given if key not in accepted and key in names(family)]


def _setting(place: Place, setting: Setting) -> Any:
    if setting.part is not None and not (place.value is None and setting.default is None):
        return method(place, setting.part)
    if problem := setting.type.problem(place.value):
        place.wrong(problem)
    elif setting.tasks is not None:
        place.document.naming.append((place, setting.tasks))
    return place.value


def hold_to(document: Document, names: Mapping[str, str], what: str = "task") -> None:
    """Note the tasks that settings name and that there are not, and those that they must and lack.

    ``names`` maps them, as they are told, to glob patterns.
    """
    for place, where in document.naming:
        strange = False
        for name, path in named_tasks(place.value, where):
            if not any(fnmatchcase(name, pattern) for pattern in names.values()):
                at, strange = place.under(None, *path), True
                at.wrong(f"no {what} {name!r}{nearest(name, names)}")
        lacking = left_out(place.value, where, names)
        if lacking and not strange:
            place.wrong(f"given by {what}, and lacks {', '.join(lacking)}")


def construct(place: Place, family: str, spelled: Spelled) -> None:
    """Have the method built once, so that values its class refuses are noted, at their lines."""
    place.ask(partial(_refused, family, spelled))


def _refused(family: str, spelled: Spelled) -> Answer | None:
    """Why the class of a method refuses its settings."""
    try:
        resolve(family, spelled)
    except MethodError as error:
        return Answer(str(error), (*error.where, *_blamed(spelled, error)))
    return None


def _blamed(spelled: Any, error: MethodError) -> tuple[str, ...]:
    """The setting that an error speaks of: the first of those given that it names."""
    for step in error.where:
        spelled = spelled.get(step) if isinstance(spelled, Mapping) else None
    given = list(spelled) if isinstance(spelled, Mapping) else []
    said = re.findall(r"\w+", str(error).partition(": ")[2])
    return tuple(sorted((word for word in given if word in said), key=said.index)[:1])
