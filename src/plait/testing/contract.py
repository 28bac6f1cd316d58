"""The contract: every property that a method's family promises, run on the class.

    >>> from plait.testing import check_method
    >>> from plait.merging.average import Average
    >>> found = check_method(Average)
    >>> found["one_expert_is_returned"]
    'held'

Plug-in authors call :func:`check_method` in a test of their own; plait's tests run it over the
registry, and fail for any registered class that it was not run on.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from plait.method import Card, Method, index
from plait.testing import common
from plait.testing.laws import BrokenLawError, Property, Subject, Suite, hold

# The modules of plait.testing that hold a family's properties, loaded when needed; its own is last.
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "balancing": ("balancers",),
    "sharing": ("networks", "sharings"),
    "adapting": ("networks", "adapters"),
    "merging": ("lookers", "mergers"),
    "strategy": ("strategies",),
    "procedure": ("procedures",),
}

suite = Suite()


@suite.law("exceptions on the card name properties and give reasons")
def exceptions_are_reasoned(subject: Subject) -> None:
    known = {one.name for one in properties(subject)}
    for name, reason in subject.cls.card.exceptions.items():
        assert name in known, f"exception {name!r} is no property of a {subject.family} method"
        assert len(reason.split()) >= 3, f"exception {name!r} gives no reason: {reason!r}"


def properties(subject: Subject) -> list[Property]:
    """What the subject promises: its family's properties, then those of every method.

    Raises ``LookupError`` for a family that has no properties yet.
    """
    if subject.family not in FAMILIES:
        raise LookupError(f"{subject.name}: no contract for the family {subject.family!r}")
    suites: list[Suite] = [common.suite, suite, *(m.suite for m in _modules(subject.family))]
    return [one for each in suites for one in each.properties if one.promised(subject)]


def golden(subject: Subject) -> dict[str, list[float]]:
    """The numbers by which a later change of the method is noticed."""
    probe: Callable[[Subject], dict[str, list[float]]] = _modules(subject.family)[-1].golden
    return probe(subject)


def check_method(cls: type[Method], **settings: Any) -> dict[str, str]:
    """Run every property on a class, built with the given settings or its defaults.

    Returns, by property, ``"held"`` or ``"excused: reason"``. Raises
    :class:`~plait.testing.laws.BrokenLawError` listing every law that broke, with numbers.
    """
    subject = Subject(cls, settings)
    found, broken = {}, []
    for one in properties(subject):
        try:
            found[one.name] = hold(subject, one)
        except BrokenLawError as error:
            broken.append(str(error))
    if broken:
        raise BrokenLawError("\n".join(broken))
    return found


def registered() -> dict[str, type[Method]]:
    """Every class that counts as registered, by key.

    Those of the index, entry points included, and every class of plait's own that carries a card,
    wherever it was defined: a method cannot hide from the contract by its place.
    """
    found = {key: entry.load() for key, entry in index().items()}
    for cls in _below(Method):
        if cls.__module__.startswith("plait.") and isinstance(vars(cls).get("card"), Card):
            found[cls.card.key] = cls
    return found


def unchecked(ran: Iterable[type[Method]]) -> list[str]:
    """The keys of registered classes that are not among those the contract ran on."""
    done = set(ran)
    gc.collect()  # classes made and dropped by other tests are no longer registered
    return sorted(key for key, cls in registered().items() if cls not in done)


def _modules(family: str) -> list[Any]:
    return [importlib.import_module(f"plait.testing.{name}") for name in FAMILIES[family]]


def _below(cls: type[Method]) -> Iterator[type[Method]]:
    for child in cls.__subclasses__():
        yield child
        yield from _below(child)
