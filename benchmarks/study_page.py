"""What pages of studies share: figures as they are printed, tables, lines between marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plait.comparing.results import Interval

MINUS = "\u2212"


def signed(value: float | None, digits: int = 2) -> str:
    """A figure with its sign; a dash where there is none."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", MINUS)


def plural(number: int, word: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{number} {word}" + ("" if number == 1 else "s")


def interval(given: Interval, digits: int = 2) -> str:
    """``+1.2 [+0.3, +2.1]``."""
    if given.value is None:
        return "undefined"
    return (
        f"{signed(given.value, digits)} [{signed(given.low, digits)}, {signed(given.high, digits)}]"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown, its first column to the left."""
    rule = ["---", *["---:"] * (len(head) - 2), "---"]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def rewrite(page: Path, script: str, lines: Sequence[str]) -> None:
    """Put the lines between the page's marks that name the script."""
    begin, end = (f"<!-- {word}: written by benchmarks/{script} -->" for word in ("begin", "end"))
    before, first, rest = page.read_text("utf-8").partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise SystemExit(f"{page}: the marks of {script} are missing")
    page.write_text(f"{before}{begin}\n\n" + "\n".join(lines) + f"\n{end}{after}", "utf-8")
