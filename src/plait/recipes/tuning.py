"""The ``tune:`` block: ``{trials: 8, over: {learning_rate: {low: 1e-4, high: 1e-2}}}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plait.method import MethodError
from plait.recipes import blocks, spelling
from plait.recipes.annotations import Setting
from plait.recipes.document import Place, nearest, quote


def tune(place: Place) -> dict[str, Any]:
    """The block, its values checked against the training settings; see :func:`check`."""
    given = place.mapping("tune", ("trials", "over"))
    found: dict[str, Any] = {}
    if "trials" in given:
        found["trials"] = blocks.whole(given["trials"], 1)
    if "over" in given:
        found["over"] = {}
        for name, inner in given["over"].mapping("over").items():
            found["over"][name] = inner.value
            if "." in name:
                _space(inner, name, None)
            elif name not in blocks.TRAINING:
                inner.wrong(f"no training setting {name!r}{nearest(name, blocks.TRAINING)}")
            else:
                _space(inner, name, blocks.TRAINING[name])
    return found


def check(root: Place, found: Mapping[str, Any]) -> None:
    """Note settings to be tuned that no strategy of the study has."""
    strategies = found.get("strategies") or {}
    written = root.value.get("strategies") if isinstance(root.value, dict) else None
    named = written if isinstance(written, dict) else strategies  # those with mistakes included
    labels = [*named, *spelling.names("strategy")]
    for name in (found.get("tune") or {}).get("over", ()):
        label, dot, path = name.partition(".")
        place = root.under(None, "tune", "over", name)
        if dot and label not in labels:
            place.wrong(f"no strategy {label!r}{nearest(label, labels)}")
        elif dot and (label in strategies or label not in named):
            _follow(place, strategies.get(label, label), path.split("."))


def _follow(place: Place, spelled: Any, path: list[str]) -> None:
    """Note where a path of settings leaves the methods that a strategy is made of."""
    family = "strategy"
    for at, key in enumerate(path):
        name = next(iter(spelled)) if isinstance(spelled, Mapping) else str(spelled)
        try:
            entry = spelling.lookup(family, name)
        except MethodError:
            return  # noted where the strategy stands
        if entry is None:
            return
        accepted = spelling.settings(entry)
        if key not in accepted:
            what = f"{family} method {name!r} has no setting {key!r}"
            place.wrong(f"{what}{nearest(key, accepted)}")
            return
        if at + 1 < len(path) and accepted[key].part is None:
            place.wrong(f"{'.'.join(path[: at + 1])} is no method and has no settings")
            return
        family = str(accepted[key].part)
        given = spelled[name] if isinstance(spelled, Mapping) else {}
        spelled = (given or {}).get(key, accepted[key].default)


def _space(place: Place, name: str, setting: Setting | None) -> None:
    """The values of a setting: a list, or ``{low: …, high: …}``."""
    value = place.value
    tried: list[tuple[str | int, Any]] = []
    if isinstance(value, list):
        tried = list(enumerate(value))
    elif isinstance(value, dict) and set(value) == {"low", "high"}:
        low, high = value["low"], value["high"]
        if _number(low) and _number(high) and 0 < low < high:
            tried = [("low", low), ("high", high)]
    if not tried:
        place.wrong(
            f"the values of {name!r} are a list, or {{low: …, high: …}} with 0 < low < high; "
            f"got {quote(value)}"
        )
    for step, one in tried:
        if setting is not None and (problem := setting.type.problem(one)):
            place.under(one, step).wrong(problem)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
