"""Names from data are hostile: made visible once, before anything is written."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from plait.comparing.report.numbers import finite
from plait.comparing.results import Agreement, Curve, Failure, Interval, Results

# Characters that reorder the text around them; isolating a name is not enough in plain text.
_REORDER = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_BREAKS = frozenset("\u2028\u2029")


def visible(text: str, keep: str = "") -> str:
    r"""The text with control, reordering and unencodable characters written out (``\x1b``).

    Those in ``keep`` stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or not _hidden(c) else _written(c) for c in text)


def _hidden(char: str) -> bool:
    if unicodedata.category(char) in ("Cc", "Cs") or char in _REORDER or char in _BREAKS:
        return True
    return ord(char) & 0xFFFE == 0xFFFE or "\ufdd0" <= char <= "\ufdef"  # no character at all


def _written(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def cleaned(results: Results) -> Results:
    """The same results with every text visible and every number finite or None."""
    whole: Results = _clean(results)
    title = whole.title.strip() or "A study of several tasks"
    # The recipe is text of many lines, and pictures are not text.
    recipe = visible(results.recipe.replace("\r\n", "\n"), keep="\n\t")
    return replace(whole, title=title, recipe=recipe, pictures=results.pictures)


def _clean(value: Any) -> Any:
    match value:
        case str():
            return visible(value)
        case Interval():
            return finite(value)
        case Curve():  # its numbers are many and are looked at where they are drawn
            series = {visible(str(name)): line for name, line in value.series.items()}
            seed = visible(str(value.seed))
            return replace(value, strategy=visible(value.strategy), seed=seed, series=series)
        case Agreement():
            tasks = [visible(str(name)) for name in value.tasks]
            seed = visible(str(value.seed))
            return replace(value, strategy=visible(value.strategy), seed=seed, tasks=tasks)
        case Failure():  # errors have lines
            error = visible(value.error.replace("\r\n", "\n"), keep="\n")
            seed = visible(str(value.seed))
            return Failure(visible(value.strategy), seed, error, visible(value.cell))
        case Mapping():
            return {visible(str(key)): _clean(item) for key, item in value.items()}
        case list() | tuple():
            return tuple(_clean(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        named = {field.name: _clean(getattr(value, field.name)) for field in fields(value)}
        return replace(value, **named)
    return value
