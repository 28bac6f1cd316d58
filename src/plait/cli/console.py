"""What the commands print: rich on a terminal, plain lines elsewhere, never a control character."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

# Escape sequences whole, then other controls, then marks that reorder what a reader sees.
_HOSTILE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
    r"|[\ud800-\udfff]"  # halves of characters, which no terminal can show
)
_STEERING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
PLAIN_WIDTH = 160  # where there is no terminal to fit into


class InputError(ValueError):
    """A mistake in what a command was given."""


def clean(text: object) -> str:
    """The text without anything that steers a terminal; line breaks and tabs stay."""
    return _HOSTILE.sub("", str(text))


def one_line(text: object) -> str:
    """:func:`clean`, on one line: for names that come from data."""
    return " ".join(clean(text).split())


def console(*, stderr: bool = False) -> Console:
    """A console that fits the terminal, or wide and colourless where there is none."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def say(text: object = "", style: str | None = None, *, stderr: bool = False) -> None:
    """Print a paragraph; long lines are wrapped at words on a terminal."""
    console(stderr=stderr).print(clean(text), style=style, soft_wrap=not _stream(stderr).isatty())


def item(text: object) -> None:
    """Print a point of a list; on a terminal its further lines are indented under the first."""
    if not sys.stdout.isatty():
        say(f"- {clean(text)}")
        return
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    grid.add_row("-", clean(text))
    console().print(grid)


def warn(text: object) -> None:
    """Print a warning to the error stream."""
    _prefixed("warning: ", "bold yellow", text, wrap=True)


def fail(text: object) -> None:
    """Print an error to the error stream; places such as ``study.yaml:12`` stay in one piece."""
    _prefixed("error: ", "bold red", text, wrap=False)


def _prefixed(prefix: str, style: str, text: object, *, wrap: bool) -> None:
    from rich.text import Text

    line = Text(prefix, style=style)
    line.append(clean(text), style="not bold default")
    console(stderr=True).print(line, soft_wrap=not (wrap and sys.stderr.isatty()))


def _stream(stderr: bool) -> Any:
    return sys.stderr if stderr else sys.stdout


def dump(value: Any) -> None:
    """Print plain data as JSON, for other programs; what would steer a terminal is escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    sys.stdout.write(_STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    right: Iterable[str] = (),
    whole: Iterable[str] = (),
) -> Table:
    """Aligned columns under dim headings, those of ``right`` to the right.

    Where the terminal is narrow, others give way before those of ``right`` and ``whole``.
    """
    from rich.table import Table

    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in head:
        numbers = name in set(right)
        kept = numbers or name in set(whole)
        found.add_column(name, justify="right" if numbers else "left", no_wrap=kept)
    for row in rows:
        found.add_row(*(one_line(cell) if isinstance(cell, str) else cell for cell in row))
    return found


def show(found: Any) -> None:
    """Print a table or a text."""
    console().print(found)


def interactive() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()
