"""Conditions over columns, such as ``click == 1`` or ``country in ["de", "fr"] and age >= 18``.

A condition is read by the grammar below and becomes a polars expression; nothing in it is ever run
as Python. A comparison with a missing value does not hold (so ``not x == 1`` holds where x is
missing, ``x != 1`` does not).

    condition   all ("or" all)*                all    part ("and" part)*
    part        "not" part | amount [test]
    test        ("==" | "!=" | "<" | "<=" | ">" | ">=") amount
                | ["not"] "in" "[" value, … "]" | "is" ["not"] "missing"
    amount      term (("+" | "-") term)*       term   factor (("*" | "/" | "%") factor)*
    factor      number | "text" | true | false | column | `any column`
                | "-" factor | "(" condition ")"

    >>> condition("country in ['de', 'fr'] and age >= 18").columns
    ('country', 'age')
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import polars as pl

from plait.method import did_you_mean

LONGEST, DEEPEST = 2_000, 40
WORDS = ("and", "or", "not", "in", "is", "missing", "true", "false")
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?)
    |(?P<text>"[^"]*"|'[^']*')
    |(?P<name>[^\W\d][\w.]*|`[^`]+`)
    |(?P<sign>==|!=|<=|>=|[-+*/%<>()\[\],]))""",
    re.VERBOSE,
)
_COMPARE: Mapping[str, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
}  # fmt: skip
_COUNT: Mapping[str, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
    "/": lambda a, b: a / b, "%": lambda a, b: a % b,
}  # fmt: skip


class ConditionError(ValueError):
    """A condition that cannot be read, or does not fit the columns."""


@dataclass(frozen=True)
class Node:
    """A part of a condition: what it does, to what, and the character at which it stands."""

    act: str
    inner: tuple[Node, ...]
    value: Any
    at: int


@dataclass(frozen=True)
class Condition:
    """A condition as it was read; :meth:`expression` fits it to the columns of a table."""

    text: str
    root: Node
    columns: tuple[str, ...]

    def expression(self, schema: Mapping[str, pl.DataType]) -> pl.Expr:
        """The condition over columns of these types; false where a value that it needs is missing.

        Raises :class:`ConditionError` for unknown columns, with the nearest name, and for
        comparisons of unlike values.
        """
        found, kind = _Fit(self.text, schema).part(self.root)
        if kind != "truth":
            _wrong(self.text, self.root.at, f"this is {_A[kind]}, not a condition; compare it")
        return found.fill_null(value=False)


def condition(text: str) -> Condition:
    """Read a condition. Raises :class:`ConditionError` with the character that is wrong."""
    if len(text) > LONGEST:
        raise ConditionError(f"longer than {LONGEST:,} characters")
    reader = _Reader(text)
    root = reader.either()
    if reader.here[0] != "end":
        reader.refuse("and, or, or the end")
    if not reader.columns:
        _wrong(text, 0, "it names no column")
    return Condition(text, root, tuple(dict.fromkeys(reader.columns)))


def _wrong(text: str, at: int, message: str) -> NoReturn:
    raise ConditionError(f"{text!r}, character {at + 1}: {message}")


class _Reader:
    """Tokens → nodes, by recursive descent."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._split())
        self.place = self.depth = 0
        self.columns: list[str] = []

    def _split(self) -> Any:
        at = 0
        while at < len(self.text.rstrip()):
            match = _TOKEN.match(self.text, at)
            if match is None:
                at += len(self.text[at:]) - len(self.text[at:].lstrip())
                sign = self.text[at]
                hint = {"=": "; write == to compare", "&": "; write and", "|": "; write or",
                        "!": "; write != or not", '"': " that is never closed",
                        "'": " that is never closed", "`": " that is never closed"}  # fmt: skip
                _wrong(self.text, at, f"unexpected {sign!r}{hint.get(sign, '')}")
            kind = str(match.lastgroup)
            word, start = match.group(kind), match.start(kind)
            if kind == "name" and word.lower() in WORDS:
                kind, word = "word", word.lower()
            yield kind, word, start
            at = match.end()
        yield "end", "", len(self.text)

    @property
    def here(self) -> tuple[str, str, int]:
        """The next token: its kind, its text, its place."""
        found: tuple[str, str, int] = self.tokens[self.place]
        return found

    def refuse(self, wanted: str) -> NoReturn:
        _, word, at = self.here
        _wrong(self.text, at, f"expected {wanted}, got {word or 'the end'!r}")

    def take(self, *words: str) -> str:
        """The next token if it is one of these words or signs; else empty."""
        kind, word, _ = self.here
        if kind in ("word", "sign") and word in words:
            self.place += 1
            return word
        return ""

    def need(self, word: str) -> None:
        if not self.take(word):
            self.refuse(repr(word))

    def either(self) -> Node:
        return self._joined("or", self._all)

    def _all(self) -> Node:
        return self._joined("and", self._part)

    def _joined(self, word: str, inner: Callable[[], Node]) -> Node:
        parts = [inner()]
        while self.take(word):
            parts.append(inner())
        return parts[0] if len(parts) == 1 else Node(word, tuple(parts), None, parts[0].at)

    def _chain(self, signs: tuple[str, ...], inner: Callable[[], Node]) -> Node:
        found, length = inner(), 0
        while sign := self.take(*signs):
            length += 1
            if length > DEEPEST:
                self.refuse(f"at most {DEEPEST} of {' '.join(signs)} in a row")
            found = Node(sign, (found, inner()), None, found.at)
        return found

    def _part(self) -> Node:
        at = self.here[2]
        if self.take("not"):
            return Node("not", (self._deeper(self._part),), None, at)
        left = self._amount()
        if sign := self.take(*_COMPARE):
            return Node(sign, (left, self._amount()), None, left.at)
        if self.take("is"):
            negated = bool(self.take("not"))
            self.need("missing")
            return Node("missing", (left,), negated, left.at)
        negated = bool(self.take("not"))
        if self.take("in"):
            return Node("in", (left, *self._listed()), negated, left.at)
        if negated:
            self.refuse("'in'")
        return left

    def _listed(self) -> list[Node]:
        self.need("[")
        found = [self._factor()]
        while self.take(","):
            found.append(self._factor())
        self.need("]")
        return found

    def _amount(self) -> Node:
        return self._chain(("+", "-"), self._term)

    def _term(self) -> Node:
        return self._chain(("*", "/", "%"), self._factor)

    def _deeper(self, inner: Callable[[], Node]) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            _wrong(self.text, self.here[2], f"nested deeper than {DEEPEST} levels")
        found = inner()
        self.depth -= 1
        return found

    def _factor(self) -> Node:
        kind, word, at = self.here
        if word in ("(", "-") and kind == "sign":
            self.place += 1
            if word == "-":
                return Node("minus", (self._deeper(self._factor),), None, at)
            inner = self._deeper(self.either)
            self.need(")")
            return inner
        if kind == "number":
            value: Any = float(word) if set(word) & set(".eE") else int(word)
        elif kind == "text":
            value = word[1:-1]
        elif word in ("true", "false"):
            value = word == "true"
        elif kind == "name":
            self.columns.append(word.strip("`"))
            self.place += 1
            return Node("column", (), self.columns[-1], at)
        else:
            self.refuse("a column or a value")
        self.place += 1
        return Node("value", (), value, at)


_A = {"number": "a number", "text": "text", "truth": "true or false", "time": "a time"}


class _Fit:
    """Nodes → expressions with their kinds: number, text, truth, time."""

    def __init__(self, text: str, schema: Mapping[str, pl.DataType]) -> None:
        self.text = text
        self.schema = schema

    def wrong(self, node: Node, message: str) -> NoReturn:
        _wrong(self.text, node.at, message)

    def part(self, node: Node) -> tuple[pl.Expr, str]:
        """The expression of a node and its kind."""
        match node.act:
            case "value":
                return pl.lit(node.value), _kind_of_value(node.value)
            case "column":
                return self._column(node)
            case "and" | "or" | "not":
                return self._logic(node)
            case "missing":
                found = self.part(node.inner[0])[0]
                return (found.is_not_null() if node.value else found.is_null()), "truth"
            case "in":
                return self._in(node)
            case "minus":
                return -self._number(node.inner[0]), "number"
            case sign if sign in _COUNT:
                a, b = (self._number(inner) for inner in node.inner)
                return _COUNT[sign](a, b), "number"
        return self._compared(node.act, *node.inner), "truth"

    def _column(self, node: Node) -> tuple[pl.Expr, str]:
        if node.value not in self.schema:
            self.wrong(node, f"no column {node.value!r}{did_you_mean(node.value, self.schema)}")
        dtype, found = self.schema[node.value], pl.col(node.value)
        if dtype.is_numeric():
            return found, "number"
        if dtype == pl.Boolean:
            return found, "truth"
        if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
            return found.cast(pl.String), "text"
        if dtype not in (pl.Date, pl.Datetime):
            self.wrong(node, f"column {node.value!r} has type {dtype}, which is not compared")
        return found.cast(pl.Datetime("us")), "time"

    def _logic(self, node: Node) -> tuple[pl.Expr, str]:
        parts = []
        for inner in node.inner:
            found, kind = self.part(inner)
            if kind != "truth":
                self.wrong(inner, f"this is {_A[kind]}, not a condition; compare it, as in x == 1")
            parts.append(found.fill_null(value=False))
        if node.act == "not":
            return parts[0].not_(), "truth"
        return (pl.all_horizontal if node.act == "and" else pl.any_horizontal)(parts), "truth"

    def _number(self, node: Node) -> pl.Expr:
        found, kind = self.part(node)
        if kind != "number":
            self.wrong(node, f"this is {_A[kind]}; only numbers are reckoned with")
        return found

    def _in(self, node: Node) -> tuple[pl.Expr, str]:
        one, *values = node.inner
        if any(value.act not in ("value", "minus") for value in values):
            self.wrong(node, "a list holds values, no columns")
        found = pl.any_horizontal([self._compared("==", one, value) for value in values])
        if node.value:
            found = found.not_() & self.part(one)[0].is_not_null()
        return found, "truth"

    def _compared(self, sign: str, left: Node, right: Node) -> pl.Expr:
        (a, kind), (b, other) = self.part(left), self.part(right)
        for one, two in ((left, right), (right, left)):
            kinds = (kind, other) if one is left else (other, kind)
            if kinds == ("time", "text") and two.act == "value":
                moment = pl.lit(two.value).str.to_datetime(strict=False, time_unit="us")
                if pl.select(moment).item() is None:
                    self.wrong(two, f"{two.value!r} is no time; write 2024-01-31")
                return _COMPARE[sign](a, moment) if one is left else _COMPARE[sign](moment, b)
            if kinds == ("text", "truth") and two.act == "value":
                word = pl.lit(str(two.value).lower())
                text = (a if one is left else b).str.to_lowercase()
                return _COMPARE[sign](text, word)
            if kinds == ("truth", "number"):
                return _COMPARE[sign](a.cast(pl.Int8, strict=False), b.cast(pl.Float64))
            if kinds == ("text", "number") and two.act == "value":
                self.wrong(two, f'{self._said(one)} is text; write "{two.value}"')
            if kinds == ("number", "text") and two.act == "value":
                self.wrong(two, f"{self._said(one)} is a number; write it without quotes")
        if kind != other:
            self.wrong(left, f"{_A[kind]} is compared with {_A[other]}")
        return _COMPARE[sign](a, b)

    def _said(self, node: Node) -> str:
        return f"column {node.value!r}" if node.act == "column" else "this"


def _kind_of_value(value: Any) -> str:
    if isinstance(value, bool):
        return "truth"
    return "text" if isinstance(value, str) else "number"
