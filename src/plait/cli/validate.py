"""``plait validate``: every mistake of a study in one pass, then what its data look like."""

from __future__ import annotations

from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from plait.data.survey import Survey
    from plait.recipes import StudySpec

TASKS = 30  # shown one by one


def validate(
    study: Annotated[Path, typer.Argument(help="A study: study.yaml.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a study and its data; train nothing."""
    from plait.data.survey import survey
    from plait.recipes.document import read_document
    from plait.recipes.placing import placed
    from plait.recipes.spelling import hold_to
    from plait.recipes.study import from_document

    document = read_document(study)
    document.apart = True
    spec = from_document(document).located(study.parent)
    with placed(study):
        found = survey(spec.data, spec.tasks, text=spec.encoder.get("text"))
    hold_to(document, {name: escape(name) for name in found.tasks.names})
    document.finish()
    if json:
        _dump(study, found)
    else:
        _show(study, spec, found)


def _dump(study: Path, found: Survey) -> None:
    from plait.cli import console

    console.dump(
        {
            "study": str(study),
            "rows": found.rows,
            "tasks": found.summary(),
            "pairs": [{"tasks": list(pair), "rows": count} for pair, count in found.pairs.items()],
            "inputs": [
                {"table": c.table, "columns": list(c.columns), "role": c.role, "type": c.type}
                for c in found.columns
            ],
            "facts": list(found.facts),
            "warnings": list(found.warnings),
        }
    )


def _show(study: Path, spec: StudySpec, found: Survey) -> None:
    from plait.cli import console

    several = len(spec.data.tables) > 1
    columns = [
        (*((c.table,) if several else ()), " + ".join(c.columns), c.type, c.reason)
        for c in found.columns
    ]
    head = (*(("table",) if several else ()), "input", "type", "because")
    console.show(console.table(head, columns))
    console.say()
    rows = [
        (row["name"], row["kind"], f"{row['train']:,}", f"{row['valid']:,}", f"{row['test']:,}",
         row["metric"])
        for row in found.summary()
    ]  # fmt: skip
    heads = ("task", "kind", "train", "valid", "test", "ranked by")
    console.show(console.table(heads, rows[:TASKS], right=("train", "valid", "test")))
    if len(rows) > TASKS:
        console.say(f"… and {len(rows) - TASKS} more tasks", "dim")
    console.say()
    for fact in found.facts:
        console.say(f"- {fact}")
    for warning in found.warnings:
        console.warn(warning)
    count = len(spec.strategies)
    ways = f"{count} strategies" if count else "the usual strategies"
    console.say()
    console.say(f"{study} is fine: {len(found.tasks)} tasks, {ways}.", "bold")
