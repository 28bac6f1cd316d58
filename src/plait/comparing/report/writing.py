"""A report in a file, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from plait.comparing.report.page import html
from plait.comparing.report.text import csv, latex, markdown
from plait.comparing.results import Results
from plait.method import did_you_mean
from plait.weights.files import write_atomic

FORMATS: Mapping[str, Callable[[Results], str]] = {
    "html": html,
    "markdown": markdown,
    "latex": latex,
    "csv": csv,
}
_ENDINGS = {"htm": "html", "md": "markdown", "tex": "latex"}


def write(results: Results, path: str | Path, format: str | None = None) -> Path:  # noqa: A002
    """Write the report; ``format`` is html, markdown, latex or csv, or follows the file's ending.

    Raises ``ValueError`` for a format or an ending that is none of these.
    """
    path = Path(path)
    asked = (path.suffix.removeprefix(".") if format is None else format).lower()
    name = _ENDINGS.get(asked, asked)
    if name not in FORMATS:
        raise ValueError(
            f"no report format {asked!r} for {path}{did_you_mean(asked, [*FORMATS, *_ENDINGS])}"
        )
    write_atomic(path, FORMATS[name](results).encode("utf-8"))
    return path
