"""The JSON Schema of a study file, for editors: ``python -m plait.recipes.schema [--check]``.

It is built from what the reader itself uses: the settings of methods in the index, the fields of
the training block, the forms of encoders.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from plait.data.declare import TYPES
from plait.method import Entry, index
from plait.recipes import blocks, encoders, spelling
from plait.recipes.annotations import Setting
from plait.recipes.study import KEYS, VERSION
from plait.settings import TRACKERS
from plait.task import KINDS

PATH = Path(__file__).parents[3] / "docs" / "study.schema.json"
EXTERNAL = {"type": "string", "pattern": "^[A-Za-z_][\\w.]*:[A-Za-z_]\\w*$"}
TEXT: dict[str, Any] = {"type": ["string", "number"]}
TEXTS: dict[str, Any] = {"anyOf": [TEXT, {"type": "array", "items": TEXT, "minItems": 1}]}
Schema = dict[str, Any]


def schema() -> Schema:
    """The schema as plain data."""
    families = sorted({entry.family for entry in index().values()} | {"strategy"})
    one: Schema = {
        "version": {"type": "integer", "minimum": 1, "maximum": VERSION},
        "title": {**TEXT, "description": "The headline of the report."},
        "data": _data(),
        "tasks": _tasks(),
        "encoder": _encoder(),
        "training": _mapping(blocks.TRAINING),
        "experts": _record(
            {
                "base": TEXT,
                "models": {"type": "object", "minProperties": 1, "additionalProperties": TEXT},
            },
            ["models"],
        ),
        "strategies": _strategies(),
        "seeds": _either(_count(1), _record({"init": _count(1), "split": _count(1)})),
        "intervals": _either(TEXT, _record({"by": TEXT}, ["by"])),
        "tune": _tune(),
        "track": _record(dict.fromkeys(TRACKERS, TEXT)),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "plait study",
        **_record({key: one[key] for key in KEYS}, ["data", "tasks"]),
        "$defs": {family: _family(family) for family in families},
    }


def _record(properties: Mapping[str, Any], required: Iterable[str] = ()) -> Schema:
    found: Schema = {
        "type": "object", "properties": dict(properties), "additionalProperties": False,
    }  # fmt: skip
    names = list(required)
    return {**found, "required": names} if names else found


def _either(*choices: Schema) -> Schema:
    return {"anyOf": list(choices)}


def _count(least: int) -> Schema:
    return {"type": "integer", "minimum": least}


def _mapping(accepted: Mapping[str, Setting]) -> Schema:
    return _record(
        {name: _setting(setting) for name, setting in accepted.items()},
        [name for name, setting in accepted.items() if setting.required],
    )


def _setting(setting: Setting) -> Schema:
    default = {} if setting.default is None or setting.required else {"default": setting.default}
    if setting.part is None:
        return {**setting.type.schema, **default}
    part: Schema = {"$ref": f"#/$defs/{setting.part}"}
    return _either(part, {"type": "null"}) if setting.default is None else {**part, **default}


def _family(family: str) -> Schema:
    """A method of a family: its name, one of another package, or ``{name: {settings}}``."""
    entries = _entries(family)
    plain = [e.name for e in entries if not any(s.required for s in spelling.settings(e).values())]
    return _either(
        *([{"enum": plain}] if plain else []),
        EXTERNAL,
        {
            "type": "object", "minProperties": 1, "maxProperties": 1,
            "properties": {entry.name: _settings(entry) for entry in entries},
            "patternProperties": {EXTERNAL["pattern"]: {"type": ["object", "null"]}},
            "additionalProperties": False,
        },
    )  # fmt: skip


def _settings(entry: Entry) -> Schema:
    accepted = spelling.settings(entry)
    found = _mapping(accepted)
    inline = next((key for key, setting in accepted.items() if setting.inline), None)
    described = {"description": entry.summary}
    if inline is None:
        return {**described, **_or_null(found)}
    # The inline method may stand without its key, as a key of its own or alone.
    others = [e for e in _entries(str(accepted[inline].part)) if e.name not in accepted]
    found["properties"] |= {other.name: _settings(other) for other in others}
    required = [key for key in found.pop("required", []) if key != inline]
    found = {**found, "required": required} if required else found
    return {**described, **_either(_or_null(found), {"enum": [other.name for other in others]})}


def _or_null(found: Schema) -> Schema:
    """A mapping that may be left empty, where nothing in it is required."""
    return found if "required" in found else {**found, "type": ["object", "null"]}


def _entries(family: str) -> list[Entry]:
    found = [entry for entry in index().values() if entry.family == family]
    return sorted(found, key=lambda entry: entry.key)


def _strategies() -> Schema:
    """``{label: method}``, where a label that names a strategy may hold its settings alone."""
    one: Schema = {"$ref": "#/$defs/strategy"}
    own = {entry.name: _either(one, _settings(entry)) for entry in _entries("strategy")}
    return _either(
        {"type": "array", "items": one},
        {"type": "object", "properties": own, "additionalProperties": one},
    )


def _data() -> Schema:
    types: Schema = {"type": "object", "additionalProperties": {"enum": list(TYPES)}}
    roles = _either(
        {"type": "object", "additionalProperties": TEXTS}, {"type": "array", "items": TEXT}
    )
    buckets = {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}}
    columns = {"inputs": roles, "types": types, "buckets": buckets, "ignore": TEXTS}
    shared = {"id": TEXT, "split": _split()}
    table = _either({"type": "string"}, _record({"path": TEXT, **columns}, ["path"]))
    tables: Schema = {
        "type": "object", "minProperties": 1,
        "additionalProperties": table,
    }  # fmt: skip
    return _either(
        {"type": "string"},
        _record({"table": TEXT, **columns, **shared}, ["table"]),
        _record({"tables": tables, **shared}, ["tables"]),
    )


def _split() -> Schema:
    part: Schema = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
    fractions: Schema = {"type": "array", "items": part, "minItems": 3, "maxItems": 3}
    seed = _count(0)
    by = [
        _record({kind: fractions, "by": TEXT, "seed": seed}, [kind, "by"])
        for kind in ("stratified", "grouped", "time")
    ]
    names: Schema = {"type": "object", "additionalProperties": {"enum": list(blocks.PARTS)}}
    return _either(
        _record({"random": fractions, "seed": seed}, ["random"]),
        *by,
        _record({"column": TEXT, "names": names}, ["column"]),
    )


def _tune() -> Schema:
    positive: Schema = {"type": "number", "exclusiveMinimum": 0}
    space = _either(
        {"type": "array", "minItems": 1},
        _record({"low": positive, "high": positive}, ["low", "high"]),
    )
    over = {
        "type": "object", "additionalProperties": False,
        "properties": dict.fromkeys(blocks.TRAINING, space),
        "patternProperties": {"\\.": space},
    }  # fmt: skip
    return _record({"trials": _count(1), "over": over})


def _tasks() -> Schema:
    words = sorted({word for kind in KINDS.values() for word in (kind.name, *kind.hints)})
    kind: Schema = {"enum": words}
    value: Schema = {"type": ["string", "number", "boolean"]}
    keys: Schema = {
        **dict.fromkeys(("target", "table", "by", "positive", "group", "loss", "after"), TEXT),
        "where": {"type": "string"}, "weight": {"type": "string"},
        "missing": _either(value, {"type": "array", "items": value, "minItems": 1}),
        "repeats": {"enum": list(blocks.REPEATS)},
        **dict.fromkeys(("columns", "classes", "metrics"), TEXTS),
        "kind": kind, "unseen": {"enum": ["refuse", "skip"]},
        "preference": {"type": "number", "minimum": 0},
    }  # fmt: skip
    one = _record({key: keys[key] for key in blocks.TASK_KEYS})
    return _either(
        {"type": "array", "items": TEXT, "minItems": 1},
        {
            "type": "object", "minProperties": 1,
            "additionalProperties": _either(kind, {"type": "null"}, one),
        },
    )  # fmt: skip


def _encoder() -> Schema:
    module = _record({"module": EXTERNAL, "settings": {"type": "object"}}, ["module"])
    parts = {}
    for key, known in encoders.forms().items():
        plain = [n for n, form in known.items() if not any(s.required for s in form.values())]
        named = [_record({n: _or_null(_mapping(form))}, [n]) for n, form in known.items()]
        parts[key] = _either({"enum": plain}, *named, *([module] if key != "trunk" else []))
    return _either(_record(parts), module)


def text() -> str:
    """The schema as it is published."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Publish the schema, or with ``--check`` say whether the published one is stale."""
    if "--check" in arguments:
        stale = not PATH.exists() or PATH.read_text("utf-8") != text()
        if stale:
            sys.stderr.write(f"{PATH.name} is stale; run python -m plait.recipes.schema\n")
        return int(stale)
    PATH.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"written: {PATH.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
