"""``kill -9`` at random moments of a study, again and again, until it is finished nonetheless."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from campaign_toy import Watch, asked, copied, ended, fork, make, run, table, undisturbed


def campaign(count: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Kill ``count`` times; what was lost, torn, computed twice or left behind."""
    chance, watch = random.Random(seed), Watch()
    template, place = folder / "template", folder / "run"
    assert ended(fork(lambda: make(template))) == 0
    wanted, length = undisturbed(template, folder / "whole")
    kills = studies = other = 0
    cells_at_kill: list[int] = []
    copied(template, place)
    while kills < count:
        process = fork(lambda: run(place))
        time.sleep(chance.uniform(0, length))
        os.kill(process, signal.SIGKILL)
        code = ended(process)
        if code == -signal.SIGKILL:
            kills, length = kills + 1, 1.03 * length  # about eight kills a study, on any machine
            cells_at_kill.append(watch.look(place))
            continue
        assert code == 0, f"exit code {code}"
        length *= 0.8
        studies, other = studies + 1, other + _close(watch, place, wanted)
        copied(template, place)
    assert ended(fork(lambda: run(place))) == 0
    studies, other = studies + 1, other + _close(watch, place, wanted)
    return {
        "kills": kills, "studies": studies, "cells at a kill": max(cells_at_kill, default=0),
        **watch.counts(), "other tables": other,
    }  # fmt: skip


def _close(watch: Watch, place: Path, wanted: str) -> int:
    """A study has come to its end: is it what it would have been?"""
    watch.done(place)
    watch.fresh()
    return asked(lambda: table(place)) != wanted
