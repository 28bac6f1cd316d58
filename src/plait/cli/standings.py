"""The answer and the leaderboard on a terminal, as wide as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from plait.cli import console

if TYPE_CHECKING:
    from plait.comparing.results import Failure, Results, Standing

# Columns that a narrow terminal goes without, the first to go first; names are told below then.
SPARED = ("latency", "helped", "harmed", "training")
MARGIN = 2


def show(results: Results) -> None:
    """The answer, what to use, the leaderboard, and what was harmed or failed."""
    from plait.comparing.leaderboard import Leaderboard
    from plait.comparing.words import listed

    answer = results.answer
    console.say()
    console.say(answer.headline, "bold")
    if answer.use and answer.use not in answer.headline:
        console.say(answer.use)
    for reason in answer.reasons:
        console.item(reason)
    console.say()
    board = Leaderboard(results.standings)
    rows = board.rows()
    places = _fitting(board.columns, rows, console.console().width)
    shown = [board.columns[place] for place in places]
    console.show(_table(shown, [[row[p] for p in places] for row in rows], results.standings))
    console.say()
    console.say(board.legend, "dim")
    harmed = {
        s.strategy: listed(s.harmed) for s in results.standings if s.harmed and not s.baseline
    }
    if harmed and "harmed" not in shown:
        said = "; ".join(f"{name} on {tasks}" for name, tasks in harmed.items())
        console.say(f"Worse than separate beyond noise: {said}.")
    for failure in results.failures:
        console.warn(failed(failure))


def failed(failure: Failure) -> str:
    """One line for a cell that did not finish."""
    return f"{failure.strategy} (seed {failure.seed}) failed: {console.one_line(failure.error)}"


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], standings: Sequence[Standing]
) -> object:
    from rich.text import Text

    return console.table(
        head,
        [
            [Text(cell, style=_style(name, one)) for name, cell in zip(head, row, strict=True)]
            for row, one in zip(rows, standings, strict=True)
        ],
    )


def _fitting(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The columns that are shown: fewer where the terminal is too narrow for all."""
    kept = list(range(len(head)))
    wide = [max(len(row[at]) for row in [head, *rows]) + MARGIN for at in kept]
    for name in SPARED:
        if sum(wide[at] for at in kept) <= width:
            break
        kept = [at for at in kept if head[at] != name]
    return kept


def _style(column: str, standing: Standing) -> str:
    if standing.failed:
        return "red" if column.startswith("gain") else "dim"
    if column.startswith("gain") and standing.gain.value is not None:
        worse = standing.gain.value < 0
        if standing.gain.excludes_zero:
            return "red" if worse else "green"
    if standing.chosen:
        return "bold"
    return "dim" if standing.baseline and column == "strategy" else ""
