"""What a property of the contract is, and how it is run on a class.

A property is a small function that takes a :class:`Subject` and fails by ``assert`` or by raising.
Known failures are named in ``card.exceptions``; they are expected, strictly: a property that holds
although the card excuses it is a failure too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plait.method import Law, Method, spell


class BrokenLawError(AssertionError):
    """A method does not do what its card or its family promises."""


@dataclass(frozen=True)
class Subject:
    """The class under test and the settings it is built with (its defaults unless said)."""

    cls: type[Any]
    given: Mapping[str, Any] = field(default_factory=dict)

    def make(self, **settings: Any) -> Any:
        """A fresh instance."""
        return self.cls(**{**self.given, **settings})

    @property
    def name(self) -> str:
        """``family.name``."""
        return str(self.cls.card.key)

    @property
    def family(self) -> str:
        return str(self.cls.card.family)


@dataclass(frozen=True)
class Property:
    """One thing that must hold: its name, the law in words, and the check.

    ``when`` says which subjects promise it; without it, all of the family do.
    """

    name: str
    law: str
    check: Callable[[Subject], None]
    when: Callable[[Subject], bool] | None = None

    def promised(self, subject: Subject) -> bool:
        """Whether the subject promises it."""
        return self.when is None or self.when(subject)


class Suite:
    """The properties of a family, in the order in which they are written."""

    def __init__(self) -> None:
        self.properties: list[Property] = []

    def law(
        self, words: str, when: Callable[[Subject], bool] | None = None
    ) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
        """Register the decorated check under its own name."""

        def register(check: Callable[[Subject], None]) -> Callable[[Subject], None]:
            self.properties.append(Property(check.__name__, words, check, when))
            return check

        return register


def declares(law: Law) -> Callable[[Subject], bool]:
    """For properties that only those promise whose card names the law."""
    return lambda subject: law in subject.cls.card.laws


def refusal(call: Callable[[], object], error: type[Exception] = ValueError) -> str:
    """What the call says when it refuses; fail where it does not."""
    try:
        call()
    except error as said:
        return str(said)
    raise AssertionError(f"no {error.__name__}: it was accepted without a word")


def hold(subject: Subject, one: Property) -> str:
    """Run one property; ``"held"`` or ``"excused: reason"``, or raise :class:`BrokenLawError`."""
    reason = subject.cls.card.exceptions.get(one.name)
    try:
        one.check(subject)
    except Exception as error:
        if reason is not None:
            return f"excused: {reason}"
        said = str(error) or type(error).__name__
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        raise BrokenLawError(
            f"{subject.name} breaks {one.name!r} ({one.law}): {kind}{said}"
        ) from error
    if reason is not None:
        raise BrokenLawError(
            f"{subject.name} keeps {one.name!r}, which its card excuses ({reason}); "
            "take the exception off the card"
        )
    return "held"


def same_settings(one: Method, two: Method) -> bool:
    """Whether two methods are of one class with equal settings, tuples and lists being alike."""
    if type(one) is not type(two):
        return False
    mine, yours = one.settings(), two.settings()
    return mine.keys() == yours.keys() and all(_alike(mine[key], yours[key]) for key in mine)


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Method) and isinstance(b, Method):
        return same_settings(a, b)
    if isinstance(a, Method) or isinstance(b, Method):  # a method, and the name it was given by
        return bool(_spelled(a) == _spelled(b))
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_alike(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    return type(a) is type(b) and bool(a == b)


def _spelled(value: Any) -> Any:
    return spell(value) if isinstance(value, Method) else value
