"""Workers killed while they compute: the table of results is that of a run nothing disturbed."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from campaign_toy import Watch, asked, copied, ended, fork, make, table, undisturbed

from plait.comparing.leases import Leases
from plait.comparing.progress import Progress
from plait.comparing.study import Study

TIMES = 2  # a cell survives so many deaths of its process
WORKERS = 2


def campaign(count: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Kill ``count`` workers of studies that two of them share; what came out otherwise."""
    chance, watch = random.Random(seed), Watch()
    template, place = folder / "template", folder / "run"
    assert ended(fork(lambda: make(template, passes=30, seeds=4, rows=120))) == 0
    wanted, length = undisturbed(template, folder / "whole")
    kills = studies = other = failed = codes = 0
    pause = length / 8  # so that every study of about 20 cells sees several
    while kills < count:
        copied(template, place)
        watch.fresh()
        process = fork(lambda: _share(place), quiet=True)
        deaths: dict[str, int] = {}
        due = time.monotonic() + chance.uniform(0, pause)
        while not (left := os.waitpid(process, os.WNOHANG))[0]:
            time.sleep(0.02)
            if time.monotonic() > due and kills < count and _kill(place, deaths, chance):
                kills += 1
                watch.look(place)
                due = time.monotonic() + chance.uniform(0, pause)
        studies += 1
        lost = len(list((place / "cells").glob("*.failed.json")))
        failed += lost
        codes += left[1] != 0
        watch.done(place)
        whole = not lost and left[1] == 0
        other += not whole or asked(lambda: table(place)) != wanted
    return {
        "workers killed": kills, "studies": studies, "failed cells": failed,
        "other exit codes": codes, **watch.counts(), "other tables": other,
    }  # fmt: skip


def _share(place: Path) -> None:
    Study.open(place).run(workers=WORKERS, progress=Progress())


def _kill(place: Path, deaths: dict[str, int], chance: random.Random) -> bool:
    """Kill a process that holds a cell, unless that has cost the cell two already."""
    leases = Leases(place / "leases")
    running = [owner.process for a, owner in leases.running() if deaths.get(a.key, 0) < TIMES]
    if not running:
        return False
    process = chance.choice(running)
    try:
        os.kill(process, signal.SIGSTOP)  # meanwhile it may have begun another cell
        held = [a.key for a, owner in leases.running() if owner.process == process]
        fair = bool(held) and all(deaths.get(key, 0) < TIMES for key in held)
        os.kill(process, signal.SIGKILL if fair else signal.SIGCONT)
    except ProcessLookupError:
        return False
    if fair:
        deaths.update({key: deaths.get(key, 0) + 1 for key in held})
    return fair
