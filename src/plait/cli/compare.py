"""``plait compare``: every way of a study, trained and measured, with the answer at the end."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from plait.comparing import Study
    from plait.comparing.results import Results

RUNS = Path("runs")


def compare(
    study: Annotated[Path, typer.Argument(help="A study: study.yaml.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The run's folder; default: runs/<name of the study>."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Cells trained at the same time.")] = 1,
    time: Annotated[
        str | None, typer.Option(help="After this long start no further cell: 30m, 2h.")
    ] = None,
    sample: Annotated[
        str | None, typer.Option(help="Use a share of the rows, for a first look: 10%.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all, estimate the time, train nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train and measure every strategy of a study.

    Ends with the answer, the leaderboard and the path of the report.
    What is finished is kept: the same command continues a stopped run.
    """
    from plait.cli.units import seconds, share

    limit = None if time is None else seconds(time)
    part = None if sample is None else share(sample)
    folder = run_folder(study, out)
    if dry_run:
        _rehearse(prepare(study, folder if folder.exists() else None, part), json=json)
        return
    made = prepare(study, folder, part)
    made.run(workers=workers, time=limit)
    finish(made, json=json)


def run_folder(study: Path, out: Path | None) -> Path:
    """Where the run is kept. Raises ``ValueError`` for a folder that holds something else."""
    from plait.cli.console import InputError

    folder = RUNS / study.stem if out is None else out
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder with --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "cells").is_dir():
        raise InputError(f"{folder} is not empty and holds no run; give another folder with --out")
    return folder


def prepare(study: Path, folder: Path | None, sample: float | None = None, **about: Any) -> Study:
    """The study in a file, its data loaded and checked, nothing trained yet.

    Raises ``ValueError`` with everything that is wrong. ``about`` holds a caption and pictures.
    """
    from plait.comparing.comparison import compare as declare
    from plait.recipes import read

    spec = read(study).located(study.parent.resolve())
    made = declare(
        spec.data,
        spec.tasks,
        dict(spec.strategies),
        encoder=spec.encoder,
        training=spec.training,
        seeds=spec.seeds,
        tune=spec.tune,
        sample=sample,
        out=folder,
        base=study.parent,
        title=spec.title or study.stem,
        about={"recipe": study.read_text("utf-8-sig"), **about},
        run=False,
    )
    made.check()
    return made


def _rehearse(study: Study, *, json: bool) -> None:
    """Say what would be computed, and about how long it takes."""
    from plait.cli import console
    from plait.comparing.words import duration

    wanted = study.wanted()
    left = [cell for cell in wanted if not study.store.finished(cell.key)]
    expected = study.estimate()
    if json:
        console.dump(
            {
                "strategies": {label: one.words() for label, one in study.strategies.items()},
                "tasks": len(study.tasks),
                "cells": len(wanted),
                "missing": len(left),
                "seconds": round(expected, 1),
                "warnings": list(study.tables()[0]["warnings"]),
            }
        )
        return
    rows = [(label, one.words()) for label, one in study.strategies.items()]
    console.show(console.table(("strategy", "what it is"), rows))
    console.say()
    for warning in study.tables()[0]["warnings"]:
        console.warn(warning)
    done = len(wanted) - len(left)
    already = f", {done} of them done" if done else ""
    console.say(f"{len(wanted)} cells{already}; about {duration(expected)} with one worker.")


def finish(study: Study, *, json: bool = False) -> None:
    """Show what was found and write the report. Exits with 1 where nothing finished."""
    from plait.cli import console, standings

    failures = study.failures()
    if all(not study.store.finished(cell.key) for cell in study.cells().values()):
        for failure in failures:
            console.fail(standings.failed(failure))
        raise typer.Exit(1)
    results = study.results
    path = study.report()
    if json:
        console.dump(plain(results, study.folder, path))
        return
    standings.show(results)
    console.say()
    console.say(f"Report: {path}")


def plain(results: Results, folder: Path, report: Path) -> dict[str, Any]:
    """The results as plain data: all but the curves and pictures."""
    told = asdict(results)
    for left_out in ("curves", "pictures", "definitions"):
        del told[left_out]
    return {"run": str(folder), "report": str(report), **told}
