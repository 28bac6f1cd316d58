"""``plait validate``: every mistake of a study in one pass, then what its data look like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TASKS = 30  # shown one by one


def validate(
    study: Annotated[Path, typer.Argument(help="A study: study.yaml.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a study and its data; train nothing."""
    from plait.cli import console
    from plait.data import load
    from plait.recipes import read

    spec = read(study).located(study.parent)
    dataset = load(spec.data, spec.tasks, text=spec.encoder.get("text"))
    if json:
        console.dump(
            {
                "study": str(study),
                "tasks": dataset.summary(),
                "inputs": [
                    {"table": c.table, "columns": list(c.columns), "role": c.role, "type": c.type}
                    for c in dataset.columns
                ],
                "facts": list(dataset.facts),
                "warnings": list(dataset.warnings),
            }
        )
        return
    several = len(spec.data.tables) > 1
    columns = [
        (*((c.table,) if several else ()), " + ".join(c.columns), c.type, c.reason)
        for c in dataset.columns
    ]
    head = (*(("table",) if several else ()), "input", "type", "because")
    console.show(console.table(head, columns))
    console.say()
    rows = [
        (row["name"], row["kind"], f"{row['train']:,}", f"{row['valid']:,}", f"{row['test']:,}",
         row["metric"])
        for row in dataset.summary()
    ]  # fmt: skip
    heads = ("task", "kind", "train", "valid", "test", "ranked by")
    console.show(console.table(heads, rows[:TASKS], right=("train", "valid", "test")))
    if len(rows) > TASKS:
        console.say(f"… and {len(rows) - TASKS} more tasks", "dim")
    console.say()
    for fact in dataset.facts:
        console.say(f"- {fact}")
    for warning in dataset.warnings:
        console.warn(warning)
    count = len(spec.strategies)
    ways = f"{count} strategies" if count else "the usual strategies"
    console.say()
    console.say(f"{study} is fine: {len(dataset.tasks)} tasks, {ways}.", "bold")
