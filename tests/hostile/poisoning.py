"""Results in which every text is a payload: each turn gives every field another one.

A text that stands in several places (a task, a strategy, a metric) is the same payload in all of
them, as one name from the data would be. After as many turns as there are payloads, every field
has held every payload.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import results_fixture as fixture
from plait.comparing.results import Answer, Curve, Failure, Results

KEPT = {("Curve", "kind"), ("Answer", "form"), ("Results", "pictures")}  # words of plait's own
OURS = {"", "separate", "name", "kind", "metric", "train", "valid", "test", "gain"}


def clean() -> Results:
    """A study that shows every part of a report: failures, warnings, sides, curves, pictures."""
    whole, broken = fixture.demo(), fixture.damaged()
    answer = replace(
        whole.answer, form="mixed", share=("left", "right"), separate=("sum", "larger")
    )
    lost = next(row for row in broken.standings if row.failed)
    return replace(
        whole,
        answer=answer,
        standings=[*[row for row in whole.standings if row.strategy != lost.strategy], lost],
        failures=[Failure("mmoe", "0", "RuntimeError: out of memory\n  at step 3", "ab12")],
    )


def fields_of(value: Any, found: dict[str, None] | None = None) -> list[str]:
    """The texts that are replaced: every one that comes from data, a study file or an error."""
    found = {} if found is None else found
    match value:
        case str():
            if value not in OURS:
                found.setdefault(value)
        case Mapping():
            for key, item in value.items():
                fields_of(key, found)
                fields_of(item, found)
        case list() | tuple():
            for item in value:
                fields_of(item, found)
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            if (type(value).__name__, field.name) not in KEPT:
                fields_of(getattr(value, field.name), found)
    return list(found)


def poisoned(results: Results, payloads: Sequence[str], turn: int) -> Results:
    """The results with the payload ``field + turn`` in the place of every text."""
    names = fields_of(results)
    assert len(names) <= len(payloads), "two fields would share a payload"
    given = {name: payloads[(at + turn) % len(payloads)] for at, name in enumerate(names)}
    changed: Results = _renamed(results, given)
    bad = [payload.encode("utf-8", "replace").decode() for payload in payloads[turn : turn + 6]]
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">{}</svg>'
    pictures = (*results.pictures[:1], *bad, *(svg.format(one) for one in bad))
    return replace(changed, pictures=pictures)


def _renamed(value: Any, given: Mapping[str, str]) -> Any:
    match value:
        case str():
            return given.get(value, value)
        case Mapping():
            return {_renamed(key, given): _renamed(item, given) for key, item in value.items()}
        case list() | tuple():
            return [_renamed(item, given) for item in value]
        case Answer() | Curve() | Results() | Failure():
            pass
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value).__name__
        return replace(value, **{
            field.name: _renamed(getattr(value, field.name), given)
            for field in fields(value) if (kind, field.name) not in KEPT
        })  # fmt: skip
    return value
