"""Plain data → YAML as people write it; :func:`plait.recipes.document.parse` gives it back.

Short mappings stand on one line; text is quoted where the reader would take it for something else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from plait.recipes.document import scalar

WIDTH = 90
_BARE = re.compile(r"[\w./][\w.+/() -]*(?<! )")
_SHORT = {"\n": "\\n", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


def emit(value: Mapping[str, Any]) -> str:
    """A mapping as a document."""
    return "".join(f"{row}\n" for row in _rows(value, 0))


def inline(value: Any) -> str:
    """Any plain value on one line: ``{rank: 8, names: [a, b]}``."""
    match value:
        case Mapping():
            return "{" + ", ".join(f"{word(str(k))}: {inline(v)}" for k, v in value.items()) + "}"
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


def _escape(character: str) -> str:
    code = ord(character)
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def _rows(value: Mapping[str, Any], level: int) -> list[str]:
    rows = []
    for key, item in value.items():
        start = "  " * level + word(str(key)) + ":"
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
