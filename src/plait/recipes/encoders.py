"""The ``encoder:`` block: an encoder for each type of input and a trunk, or a module of yours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from plait.recipes.annotations import Setting, Type, between
from plait.recipes.document import Place, nearest, quote

Forms = Mapping[str, Mapping[str, Setting]]
LIMITS: Mapping[str, Any] = {
    "width": between(1), "depth": between(0), "dropout": between(0, 1), "buckets": between(1),
    "channels": between(1), "max_length": between(1), "most": between(1),
}  # fmt: skip


@cache
def forms() -> Mapping[str, Forms]:
    """What an encoder may say: type of input or ``trunk`` → name → settings, the default first."""
    index = json.loads(files("plait").joinpath("encoders.json").read_text("utf-8"))
    return {
        part: {name: {key: _setting(key, row) for key, row in rows.items()}
               for name, rows in known.items()}
        for part, known in index.items()
    }  # fmt: skip


def _setting(name: str, row: Mapping[str, Any]) -> Setting:
    default = {"default": row["default"]} if "default" in row else {}
    return Setting(Type.of(row["type"], *LIMITS.get(name, ())), **default)


def encoder(place: Place) -> dict[str, Any]:
    """The block in its shortest spelling: ``{text: bag, trunk: {mlp: {width: 256}}}``."""
    if _foreign(place):
        return module(place)
    known = forms()
    given = place.mapping("encoder", (*known, "module"))
    read = {key: form(inner, key, known[key]) for key, inner in given.items()}
    return {key: spelled for key, spelled in read.items() if spelled is not None}


def _foreign(place: Place) -> bool:
    """Whether a module of the user's is meant, its first key misspelt or not."""
    return isinstance(place.value, dict) and not {"module", "settings"}.isdisjoint(place.value)


def module(place: Place) -> dict[str, Any]:
    """A module of the user's: ``{module: "package.module:Class", settings: {…}}``."""
    given = place.mapping("a module of yours", ("module", "settings"))
    found: dict[str, Any] = {}
    if "module" in given:
        found["module"] = given["module"].text()
    else:
        place.missing("module", "a module of yours needs module: package.module:Class")
    if ":" not in (found.get("module") or ":"):
        given["module"].wrong(f"must be package.module:Class; got {quote(found['module'])}")
    if "settings" in given:
        found["settings"] = {k: v.value for k, v in given["settings"].mapping("settings").items()}
    return found


def form(place: Place, key: str, known: Forms) -> Any:
    """One encoder: its name, or ``{name: {settings}}``."""
    if _foreign(place) and key != "trunk":
        return module(place)
    name: Any = place.value
    inner = place.under(None)
    if isinstance(place.value, dict) and len(place.value) == 1:
        (name,) = place.value
        inner = place.at(name)
    if not isinstance(name, str):
        place.wrong(f"an encoder is its name, or {{name: {{settings}}}}; got {quote(place.value)}")
        return None
    if name not in known:
        place.wrong(f"no {key} encoder {name!r}{nearest(name, known)}", line_of=inner)
        return None
    accepted = known[name]
    given = {} if inner.value is None else inner.mapping(f"{key} encoder {name!r}", accepted)
    for setting, value in given.items():
        if problem := accepted[setting].type.problem(value.value):
            value.wrong(problem)
    missing = [k for k, setting in accepted.items() if setting.required and k not in given]
    if missing:
        inner.wrong(f"{key} encoder {name!r} needs {' and '.join(missing)}")
    return {name: {k: v.value for k, v in given.items()}} if given else name
