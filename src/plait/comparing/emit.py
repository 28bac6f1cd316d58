"""Plain data → YAML as people write it: short mappings stand on one line.

Text is quoted where a reader would take it for something else. Recipes are written by this, and
read by :func:`plait.recipes.document.parse`, which gives the same data back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 90
KEY = 1000
_BARE = re.compile(r"[\w./][\w.+/() -]*(?<! )")
_NULL = re.compile(r"(~|null|Null|NULL)?")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_SHORT = {"\n": "\\n", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


def emit(value: Mapping[str, Any]) -> str:
    """A mapping as a document."""
    return "".join(f"{row}\n" for row in _rows(value, 0))


def inline(value: Any) -> str:
    """Any plain value on one line: ``{rank: 8, names: [a, b]}``."""
    match value:
        case Mapping():
            return "{" + ", ".join(f"{_key(str(k))}: {inline(v)}" for k, v in value.items()) + "}"
        case str():
            return word(value)
        case Sequence():
            return "[" + ", ".join(inline(item) for item in value) + "]"
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float() if value - value != 0:
            return ".nan" if value != value else ".inf" if value > 0 else "-.inf"
    return repr(value)


def word(text: str) -> str:
    """A text, quoted where it must be."""
    if _BARE.fullmatch(text) and scalar(text) == text:
        return text
    return (
        '"' + "".join(_SHORT.get(c) or (c if c.isprintable() else _escape(c)) for c in text) + '"'
    )


def _key(text: str, between: str = " ") -> str:
    """A key; a long one is announced, since YAML looks for its colon in 1,024 letters only."""
    written = word(text)
    return written if len(written) < KEY else f"? {written}{between}"


def _escape(character: str) -> str:
    code = ord(character)
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def _rows(value: Mapping[str, Any], level: int) -> list[str]:
    rows = []
    for key, item in value.items():
        start = "  " * level + _key(str(key), "\n" + "  " * level) + ":"
        line = f"{start} {inline(item)}"
        nested = isinstance(item, Mapping) and any(isinstance(v, Mapping) for v in item.values())
        # At the top each task, table and strategy has a line of its own.
        if isinstance(item, Mapping) and item and (len(line) > WIDTH or (nested and level == 0)):
            rows += [start, *_rows(item, level + 1)]
        elif isinstance(item, (list, tuple)) and len(line) > WIDTH:
            rows += [start, *("  " * (level + 1) + "- " + inline(one) for one in item)]
        else:
            rows.append(line)
    return rows


def scalar(text: str) -> Any:
    """A plain scalar by the core rules of YAML 1.2: ``no``, ``007`` and dates are text."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _WHOLE.fullmatch(text):
        return int(text) if len(text) < 20 else text
    if _NUMBER.fullmatch(text):
        return float(text)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text
