"""``plait compare``: every way of a study, trained and measured, with the answer at the end."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
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
    cell_time: Annotated[
        str | None, typer.Option(help="A cell that takes longer has failed: 30m, 2h.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="Compute one share of the cells, on any machine that sees --out: 3/50."),
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="Spread the cells over a cluster: ray (RAY_ADDRESS).")
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
    What is finished is kept: the same command continues a stopped run, and may be given several
    times, on several machines, to work on one folder together.
    """
    from plait.cli.units import seconds, share
    from plait.comparing import Study
    from plait.comparing.cells import Shard
    from plait.comparing.running import Bounds, done, run_study
    from plait.comparing.tracking import track

    limit = None if time is None else seconds(time)
    bounds = Bounds.of(
        limit,
        cell=None if cell_time is None else seconds(cell_time),
        shard=None if shard is None else Shard.read(shard),
    )
    part = None if sample is None else share(sample)
    folder = run_folder(study, out)
    if dry_run:
        _rehearse(prepare(study, folder if folder.exists() else None, part), json=json)
        return
    trackers = _trackers(study)
    prepare(study, folder, part).write()
    made = Study.open(folder)  # the data are the workers' to hold
    run_study(made, bounds, workers=workers, on=on)
    if bounds.shard is not None and done(made) < len(made.planned()):
        _hand_over(made, json=json)
    else:
        track(made, trackers)
        finish(made, json=json)


def _trackers(study: Path) -> Mapping[str, str]:
    """The folders of the study's trackers. Raises ``ValueError`` where one is not installed."""
    from plait.comparing.tracking import check
    from plait.recipes import read

    found: Mapping[str, str] = read(study).located(study.parent.resolve()).track
    check(found)
    return found


def run_folder(study: Path, out: Path | None) -> Path:
    """Where the run is kept. Raises ``ValueError`` for a folder that holds something else."""
    from plait.cli.console import InputError

    folder = RUNS / study.stem if out is None else out
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder with --out")
    if folder.is_dir() and not _begun(folder):
        raise InputError(f"{folder} is not empty and holds no run; give another folder with --out")
    return folder


def _begun(folder: Path) -> bool:
    """Whether a folder is empty, or holds a run, if only one that was killed while it began."""
    if any((folder / name).exists() for name in ("cells", "study.json")):
        return True
    first = {"cache", "data", "leases"}
    return all(path.name in first or path.suffix == ".tmp" for path in folder.iterdir())


def prepare(study: Path, folder: Path | None, sample: float | None = None, **about: Any) -> Study:
    """The study in a file, its data loaded and checked, nothing trained yet.

    Raises ``ValueError`` with everything that is wrong. ``about`` holds a caption and pictures.
    """
    from plait.comparing.comparison import compare as declare
    from plait.recipes import read
    from plait.recipes.placing import placed

    spec = read(study).located(study.parent.resolve())
    with placed(study):
        made = declare(
            spec.data,
            spec.tasks,
            dict(spec.strategies),
            encoder=spec.encoder,
            training=spec.training,
            experts=spec.experts,
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
    """Say what would be computed, about how long it takes and how much memory."""
    from plait.cli import console
    from plait.comparing.evaluate import measured
    from plait.comparing.forecast import told
    from plait.comparing.report.numbers import memory

    wanted = study.planned()
    left = [cell for cell in wanted if not study.store.finished(cell.key)]
    with measured() as meter:  # the steps that are timed are those of a worker
        expected = study.estimate()
    if json:
        console.dump(
            {
                "strategies": {label: one.words() for label, one in study.strategies.items()},
                "tasks": len(study.tasks),
                "cells": len(wanted),
                "missing": len(left),
                "seconds": round(expected, 1),
                "memory": meter.memory if left else None,
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
    if not left:
        console.say(f"{len(wanted)} cells, all of them done: nothing is left to compute.")
        return
    console.say(f"{len(wanted)} cells{already}; {told(expected)} with one worker.")
    if meter.memory is not None:
        console.say(f"A worker holds about {memory(meter.memory)}; {_room(study, len(left))}.")


def _room(study: Study, cells: int) -> str:
    """What is free on the disk, and what the missing cells take if any has been finished."""
    from plait.comparing.report.numbers import memory
    from plait.comparing.running import mean_size

    place = next(each for each in (study.folder, *study.folder.absolute().parents) if each.exists())
    free = f"{memory(shutil.disk_usage(place).free)} are free on the disk"
    size = cells * mean_size(study.store)
    return f"{free}, about {memory(size)} of which are needed" if size else free


def _hand_over(study: Study, *, json: bool) -> None:
    """Say what is left to other shards; the last of them writes the report of all."""
    from plait.cli import console
    from plait.cli.status import plain as state
    from plait.comparing.status import states

    told = state(study.folder, states(study))
    if json:
        console.dump(told)
        return
    console.say(
        f"This shard is done; in {study.folder} {told['done']} of {told['total']} cells are, "
        f"{told['failed']} failed. The last shard writes the report of all."
    )


def finish(study: Study, *, json: bool = False) -> None:
    """Show what was found and write the report.

    Exits with 1 where nothing finished, or nothing but plain baselines.
    """
    from plait.cli import console, standings
    from plait.comparing.running import done

    failures = study.failures()
    finished = [c for c in study.cells().values() if study.store.finished(c.key)]
    if not finished:
        if json:
            told = [asdict(failure) for failure in failures]
            console.dump({"run": str(study.folder), "report": None, "failures": told})
        for failure in failures:
            console.fail(standings.failed(failure))
        raise typer.Exit(1)
    results = study.results
    path = study.report()
    left = len(study.planned()) - done(study)
    if json:
        console.dump({**plain(results, study.folder, path), "unfinished": left})
    else:
        standings.show(results)
        console.say()
        if left:
            console.say(
                f"{left} cells of this run are still to be computed: plait status {study.folder}"
            )
        console.say(f"Report: {path}")
    if failures and all(cell.strategy.baseline for cell in finished):
        raise typer.Exit(1)


def plain(results: Results, folder: Path, report: Path) -> dict[str, Any]:
    """The results as plain data: all but the curves and pictures."""
    told = asdict(results)
    for left_out in ("curves", "pictures", "definitions"):
        del told[left_out]
    return {"run": str(folder), "report": str(report), **told}
