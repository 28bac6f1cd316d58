"""``plait status``: how far a run is, who computes what, and what has failed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from plait.comparing.status import CellState


def status(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    json: Annotated[bool, typer.Option("--json", help="Print every cell as JSON.")] = False,
) -> None:
    """Say how far a run is: done, running (where, since when), failed, waiting."""
    from plait.cli import console
    from plait.comparing import Study
    from plait.comparing.status import FAILED, RUNNING, states
    from plait.comparing.words import duration

    cells = states(Study.open(run))
    if json:
        console.dump(plain(run, cells))
        return
    counted = ", ".join(f"{count} {state}" for state, count in counts(cells).items())
    console.say(f"{run}: {len(cells)} cells, {counted}.")
    for cell in cells:
        if cell.state == RUNNING:
            since = "" if cell.seconds is None else f" for {duration(cell.seconds)}"
            sign = "" if cell.silent is None else f", last sign {duration(cell.silent)} ago"
            again = f", try {cell.tries + 1}" if cell.tries else ""
            words = f"{cell.label}: running{since} on {cell.owner}{sign}{again}"
            console.say(console.one_line(words))
    for cell in cells:
        if cell.state == FAILED:
            console.warn(console.one_line(f"{cell.label} failed: {cell.error}"))


def counts(cells: list[CellState]) -> dict[str, int]:
    """How many cells are in each state."""
    from plait.comparing.status import STATES

    return {state: sum(cell.state == state for cell in cells) for state in STATES}


def plain(run: Path, cells: list[CellState]) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "run": str(run),
        "total": len(cells),
        **counts(cells),
        "cells": [asdict(cell) for cell in cells],
    }
