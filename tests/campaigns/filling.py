"""A disk full at the n-th write, for every n: what was finished can be read, and goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from campaign_toy import Watch, asked, copied, ended, fork, make, run, table, undisturbed

from plait.comparing.progress import Progress
from plait.comparing.running import Bounds, run_study
from plait.comparing.space import EXIT_CODE, NoSpaceError
from plait.comparing.study import Study
from plait.testing.faults import failing_write

BEFORE = ("prior", "linear")  # what is finished before the disk is full
ONCE = 7  # of so many writes one is failed alone, and there is room again


def campaign(stride: int, folder: Path, first: int = 0) -> dict[str, Any]:
    """Fail every ``stride``-th write of a study, and all later ones, each in a run of its own."""
    watch = Watch()
    template, place, started = folder / "template", folder / "run", folder / "started"
    assert ended(fork(lambda: make(template, passes=1, only=("merge", *BEFORE)))) == 0
    wanted, _ = undisturbed(template, folder / "whole")
    assert ended(fork(lambda: _begin(copied(template, started)))) == 0
    writes = int(asked(lambda: str(_run(copied(started, place), None))))
    found = {"unreadable": 0, "other exit codes": 0, "other tables": 0}
    tried = refused = 0
    for at in range(first, writes, stride):
        for once in (False, True) if (at // stride) % ONCE == 0 else (False,):
            copied(started, place)
            watch.fresh()
            watch.look(place)
            code = ended(fork(lambda: _full(place, at, once=once), quiet=True))  # noqa: B023
            tried, refused = tried + 1, refused + (code == EXIT_CODE)
            if code not in (0, EXIT_CODE):
                found["other exit codes"] += 1
                sys.stderr.write(f"write {at}, once {once}: exit code {code}\n")
            watch.look(place)
            read, afterwards = asked(lambda: _go_on(place)).split()
            watch.done(place)
            found["unreadable"] += read != "read"
            found["other tables"] += afterwards != wanted
    return {
        "writes of a study": writes, "full disks": tried, "stopped with 75": refused, **found,
        **watch.counts(),
    }  # fmt: skip


def _begin(place: Path) -> None:
    """Finish the baselines only."""
    study = Study.open(place)
    study.strategies = {name: study.strategies[name] for name in BEFORE}
    run_study(study, Bounds(), progress=Progress())


def _run(place: Path, at: int | None, *, once: bool = False) -> int:
    with failing_write(place, at, once=once) as disk:
        run(place)
    return disk.writes


def _full(place: Path, at: int, *, once: bool) -> None:
    try:
        _run(place, at, once=once)
    except NoSpaceError as error:
        raise SystemExit(EXIT_CODE) from error


def _go_on(place: Path) -> str:
    """Read the old state, then finish the study: whether it was read, and what came out."""
    standings = {row.strategy: row for row in Study.open(place).results.standings}
    old = not any(standings[name].failed for name in BEFORE)
    run(place)
    return f"{'read' if old else 'lost'} {table(place)}"
