"""``plait methods``: what there is, and what runs with what you have."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from plait.method import Entry


def methods(
    have: Annotated[
        str | None,
        typer.Option(help="Only those that run with these: base,unlabelled,validation,…"),
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="Only this family: balancing, sharing, merging, …")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the methods, their papers and what they need."""
    from plait.cli import console
    from plait.method import methods as find

    owned = None if have is None else [word for word in have.split(",") if word.strip()]
    entries = find(family, owned)
    if json:
        console.dump(
            [
                {
                    "key": entry.key,
                    "summary": entry.summary,
                    "paper": entry.paper,
                    "needs": list(entry.needs),
                    "settings": dict(entry.settings),
                }
                for entry in entries
            ]
        )
        return
    if not entries:
        console.say("No method runs with that.")
        return
    for family, members in groupby(entries, key=lambda entry: entry.family):
        _show(family, list(members))
    counted = f"{len(entries)} method{'s' if len(entries) != 1 else ''}"
    console.say(f"{counted}; their settings: --json, or the page of the family in docs.", "dim")


def _show(family: str, entries: Sequence[Entry]) -> None:
    """One family's table."""
    from plait.cli import console
    from plait.method import Need

    console.say(f"{family} ({len(entries)})", "bold")
    rows = [
        (
            entry.key,
            entry.summary,
            _paper(entry.paper),
            ", ".join(Need(need).words for need in entry.needs) or "nothing more",
        )
        for entry in entries
    ]
    head = ("method", "what it does", "paper", "needs")
    console.show(console.table(head, rows, whole=("method",)))
    console.say()


def _paper(paper: object) -> str:
    if not isinstance(paper, dict):
        return ""
    first = str(paper["authors"]).replace(" and ", ",").split(",")[0].split()
    return f"{first[-1] if first else ''} {paper['year']}"
