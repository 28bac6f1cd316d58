"""Annotations as the types of settings: checked, told in words, and turned into JSON Schema."""

from __future__ import annotations

import collections.abc
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from typing import Annotated, Any

import annotated_types
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from plait.recipes.document import quote

# What an annotation read from the index may speak of; any other name means "anything".
_NAMES: dict[str, Any] = {
    **{name: getattr(typing, name) for name in ("Any", "Literal", "Union", "Optional")},
    **{name: getattr(collections.abc, name) for name in ("Mapping", "Sequence", "Iterable")},
    **{kind.__name__: kind for kind in (int, float, str, bool, list, dict, tuple, set, frozenset)},
}
_UNSET: Any = object()


@dataclass(frozen=True)
class Type:
    """What values a setting takes."""

    annotation: Any

    @classmethod
    def of(cls, annotation: Any, *limits: Any) -> Type:
        """The type of an annotation (as text or evaluated), with limits such as ``Ge(1)``."""
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, {"__builtins__": {}}, _NAMES)  # noqa: S307
            except (NameError, AttributeError, SyntaxError, TypeError):
                annotation = Any  # speaks of a class that plain data cannot be
        return cls(_limited(annotation, limits) if limits else annotation)

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(self.annotation)
        except (PydanticSchemaGenerationError, PydanticUserError):
            return TypeAdapter(Any)

    def problem(self, value: Any) -> str:
        """Why the value does not fit, as the end of a message; empty where it does."""
        if isinstance(value, float) and not math.isfinite(value):
            return f"must be {self.words}; got {value}"
        try:
            # Strict as JSON is: no text for numbers, no numbers for text, but lists for tuples.
            self.adapter.validate_json(json.dumps(value), strict=True)
        except ValidationError:
            return f"must be {self.words}; got {quote(value)}{self._near(value)}"
        return ""

    def _near(self, value: Any) -> str:
        """The word that was meant, where the type has words and one is close."""
        near = difflib.get_close_matches(str(value), choices(self.schema), n=1)
        return f"; did you mean {near[0]!r}?" if near and near[0] != value else ""

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The type as JSON Schema."""
        found = self.adapter.json_schema()
        found.pop("title", None)
        return found

    @property
    def words(self) -> str:
        """The type as a reader calls it: ``a whole number, at least 1``."""
        return describe(self.schema)


def _limited(annotation: Any, limits: tuple[Any, ...]) -> Any:
    """The annotation with limits on its numbers: ``int | Literal["auto"]`` keeps its word free."""
    if typing.get_origin(annotation) in {types.UnionType, typing.Union}:
        inner = tuple(_limited(one, limits) for one in typing.get_args(annotation))
        return typing.Union[inner]  # noqa: UP007
    return Annotated[annotation, *limits] if annotation in {int, float} else annotation


@dataclass(frozen=True)
class Setting:
    """One key of a mapping: its type, its default where it has one, its family where a method.

    An ``inline`` method may be named without its key: ``{merge: {ties: {keep: 0.2}}}``. A setting
    may name ``tasks``, in the ``keys`` of a mapping, the ``values`` of a list or mapping, or both.
    """

    type: Type
    default: Any = _UNSET
    part: str | None = None
    inline: bool = False
    tasks: str | None = None

    @property
    def required(self) -> bool:
        return self.default is _UNSET


def settings_of(cls: type, limits: Mapping[str, Any] | None = None) -> dict[str, Setting]:
    """The fields of a dataclass as settings, with limits on some of them."""
    hints = typing.get_type_hints(cls)
    limits = limits or {}
    return {
        field.name: Setting(
            Type.of(hints[field.name], *limits.get(field.name, ())),
            _UNSET
            if field.default is MISSING and field.default_factory is MISSING
            else field.default,
        )
        for field in fields(cls)
    }


def above(low: float) -> tuple[Any, ...]:
    """The limit: more than ``low``."""
    return (annotated_types.Gt(low),)


def between(low: float, high: float | None = None) -> tuple[Any, ...]:
    """The limit: at least ``low`` and at most ``high``."""
    least = annotated_types.Ge(low)
    return (least,) if high is None else (least, annotated_types.Le(high))


_PLAIN = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "object": "a mapping",
}


def choices(schema: Mapping[str, Any]) -> list[str]:
    """The words that a piece of JSON Schema accepts."""
    inner = [*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else [])]
    found = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else [])]
    words = [word for word in found if isinstance(word, str)]
    return words + [word for one in inner if isinstance(one, Mapping) for word in choices(one)]


def describe(schema: Mapping[str, Any]) -> str:
    """A piece of JSON Schema in words."""
    if "anyOf" in schema:
        words = list(dict.fromkeys(describe(choice) for choice in schema["anyOf"]))
        return " or ".join(words)
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        choices = [repr(choice) for choice in schema["enum"]]
        return " or ".join(choices) if len(choices) < 3 else f"one of {', '.join(choices)}"
    if schema.get("type") == "array":
        inner = schema.get("items")
        return f"a list of {describe(inner)}" if inner else "a list"
    words = [_PLAIN.get(str(schema.get("type")), "any value")]
    for limit, word in (
        ("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    ):  # fmt: skip
        if limit in schema:
            words.append(f"{word} {schema[limit]:g}")
    return ", ".join(words)
