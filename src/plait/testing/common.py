"""What every registered class owes, whatever its family."""

from __future__ import annotations

import inspect
import io
import math
import re
import sys
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from torch import nn

from plait.method import Card, Law, Method, MethodError, Need, describe, index, resolve, spell
from plait.testing.index import PLAIN, broken_rules
from plait.testing.laws import Subject, Suite, refusal, same_settings

suite = Suite()

METHOD_LINES = 200
_WITHOUT_FORMULA = frozenset({"strategy"})


@suite.law("a method can be built from its defaults")
def defaults_construct(subject: Subject) -> None:
    method = subject.make()
    assert isinstance(method, Method), f"{subject.cls.__name__} is no plait.method.Method"


@suite.law("settings are keyword-only and annotated")
def settings_keyword_only(subject: Subject) -> None:
    for name, parameter in inspect.signature(subject.cls).parameters.items():
        assert parameter.kind is parameter.KEYWORD_ONLY, f"setting {name!r} is {parameter.kind!s}"
        assert parameter.annotation is not parameter.empty, f"setting {name!r} has no type"


@suite.law("settings are stored unchanged under their own names")
def settings_stored_unchanged(subject: Subject) -> None:
    for given in variations(subject):
        method = subject.make(**given)
        for name, value in given.items():
            stored = getattr(method, name)
            assert stored is value or stored == value, f"{name}={value!r} is stored as {stored!r}"


@suite.law("a method written down as plain data reads back as itself")
def settings_survive_spelling(subject: Subject) -> None:
    for given in variations(subject):
        method = subject.make(**given)
        plain = spell(method)
        again = resolve(subject.family, plain)
        assert same_settings(method, again), f"{plain!r} reads back as {again.settings()!r}"
        assert spell(again) == plain, f"{plain!r} is spelled {spell(again)!r} the second time"


@suite.law("a method written to YAML reads back as itself")
def settings_survive_yaml(subject: Subject) -> None:
    for given in variations(subject):
        method = subject.make(**given)
        yaml, written = YAML(typ="safe", pure=True), io.StringIO()
        yaml.dump({"method": spell(method)}, written)
        again = resolve(subject.family, yaml.load(written.getvalue())["method"])
        assert same_settings(method, again), f"{written.getvalue()!r} gives {again.settings()!r}"


@suite.law("an unknown setting is refused, and the nearest one named")
def unknown_setting_refused(subject: Subject) -> None:
    known = list(subject.cls.accepted())
    wrong = f"{known[0]}s" if known else "settings"
    spelled = {_spelled_name(subject.cls): {wrong: 1}}
    said = refusal(lambda: resolve(subject.family, spelled), MethodError)
    assert wrong in said, f"the message does not name {wrong!r}: {said}"
    assert not known or repr(known[0]) in said, f"no nearest name in: {said}"


@suite.law("the card says what the method is, whose it is, and what it needs and promises")
def card_complete(subject: Subject) -> None:
    card = subject.cls.card
    assert isinstance(card, Card), f"card is {type(card).__name__}"
    assert len(card.summary.split()) >= 3, f"summary {card.summary!r} says nothing"
    assert all(isinstance(need, Need) for need in card.needs), f"needs {card.needs!r}"
    assert all(isinstance(law, Law) for law in card.laws), f"laws {card.laws!r}"
    for sentence in card.deviations:
        assert len(sentence.split()) >= 3, f"deviation {sentence!r} is no sentence"
    if card.paper is None:
        own = subject.cls.__module__.startswith("plait.")
        assert not own or card.key in PLAIN, "no paper, and not a known plain baseline"
        return
    assert card.paper.title, "the paper has no title"
    assert card.paper.authors, "the paper has no authors"
    assert 1900 < card.paper.year < 2100, f"year {card.paper.year}"
    assert card.paper.url.startswith("https://"), f"url {card.paper.url!r}"


@suite.law("names, files and docstrings follow the rules of the index")
def filed_by_name(subject: Subject) -> None:
    if not subject.cls.__module__.startswith("plait."):
        return
    wrong = broken_rules(subject.cls, sys.modules[subject.cls.__module__])
    assert not wrong, "; ".join(wrong)
    assert describe(subject.cls)["settings"].keys() == subject.cls.accepted().keys()


@suite.law("the docstring states the formula", lambda s: s.family not in _WITHOUT_FORMULA)
def formula_documented(subject: Subject) -> None:
    words = f"{sys.modules[subject.cls.__module__].__doc__ or ''}\n{subject.cls.__doc__ or ''}"
    prose = [line for line in words.splitlines() if not line.lstrip().startswith((">>>", "..."))]
    found = any(re.search(r"\S\s*(=|←|∝|∈|≤|≥|→)\s*\S", line) for line in prose)
    assert found, "neither the module's nor the class's docstring has a line with a formula"


@suite.law("a method fits in one short file", lambda s: s.cls.__module__.startswith("plait."))
def file_within_budget(subject: Subject) -> None:
    path = Path(inspect.getfile(subject.cls))
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= METHOD_LINES, f"{path.name} has {lines} lines, {METHOD_LINES} are allowed"


@suite.law("settings that are methods say their family")
def parts_declared(subject: Subject) -> None:
    accepted = subject.cls.accepted()
    for name, family in subject.cls.parts.items():
        assert name in accepted, f"part {name!r} is no setting"
        assert re.fullmatch(r"[a-z_]+", family), f"part {name!r} has family {family!r}"
    for name, value in subject.make().settings().items():
        if isinstance(value, Method):
            stated = subject.cls.parts.get(name)
            assert stated == value.card.family, f"{name}: {value.card.key} as {stated!r}"


@suite.law("settings cannot be changed after construction", lambda s: not _is_module(s))
def settings_frozen(subject: Subject) -> None:
    assert is_dataclass(subject.cls), "not a dataclass"
    method = subject.make()
    for name, value in method.settings().items():
        try:
            setattr(method, name, value)
        except AttributeError:
            continue
        raise AssertionError(f"{name!r} can be assigned to")
    assert isinstance(hash(method), int) or method == subject.make()


def variations(subject: Subject) -> Iterator[dict[str, Any]]:
    """The defaults, then one changed setting at a time, as far as the class accepts the change."""
    yield {}
    hints = _hints(subject.cls)
    for name, parameter in subject.cls.accepted().items():
        now = subject.given.get(name, parameter.default)
        family = subject.cls.parts.get(name)
        for value in _other_methods(family, now) if family else _others(now, hints.get(name)):
            try:
                subject.make(**{name: value})
            except (ValueError, TypeError):
                continue  # out of the setting's range: another value is tried
            yield {name: value}
            break


def _other_methods(family: str, now: Any) -> list[Any]:
    name = now.card.name if isinstance(now, Method) else now
    known = sorted(entry.name for entry in index().values() if entry.family == family)
    return [resolve(family, other) for other in known if other != name]


def _others(value: Any, hint: Any) -> list[Any]:
    options = [choice for choice in _literals(hint) if choice != value]
    if options:
        return options
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, value - 1, value * 2]
        case float() if math.isfinite(value):
            return [value / 2, value + 0.25, 1e-3]
        case None if float in _alternatives(hint):
            return [0.5, 1.0]
        case None if int in _alternatives(hint):
            return [2, 1]
    return []


def _literals(hint: Any) -> list[Any]:
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    return [choice for part in typing.get_args(hint) for choice in _literals(part)]


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) or (hint,)


def _hints(cls: type[Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls if is_dataclass(cls) else cls.__init__)
    except NameError:  # a type imported for checking only
        return {}


def _spelled_name(cls: type[Method]) -> str:
    spelled = spell(cls())
    return spelled if isinstance(spelled, str) else next(iter(spelled))


def _is_module(subject: Subject) -> bool:
    return issubclass(subject.cls, nn.Module)
