"""SIGTERM in every phase of a study: exit code 143, no step lost, the same result in the end."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from campaign_toy import Shared, Watch, asked, copied, ended, fork, make, run, table, undisturbed

from plait.comparing import computing, running
from plait.comparing import store as stores
from plait.comparing.declared import Declared
from plait.comparing.strategies.merge import Merge
from plait.comparing.study import Study
from plait.training import loop
from plait.training.checkpoints import Checkpoint

# Where a signal is sent: at some call of each of these.
PHASES: dict[str, tuple[Any, str]] = {
    "opening": (Study, "wanted"),
    "loading": (Declared, "load"),
    "tidying": (stores.Store, "tidy"),
    "estimating": (running, "expected"),
    "claiming": (stores.Leases, "claim"),
    "a step": (loop.Loop, "gradients"),
    "an update": (loop.Loop, "update"),
    "saving": (Checkpoint, "write"),
    "validating": (sys.modules["plait.training.train"], "evaluate"),
    "merging": (Merge, "run"),
    "predicting": (computing, "predict_split"),
    "writing": (computing, "write_files"),
    "sealing": (stores, "publish"),
    "between cells": (running, "done"),
}


def campaign(count: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Send ``count`` signals, in every phase in turn; what was not saved."""
    chance, watch = random.Random(seed), Watch()
    template, place = folder / "template", folder / "run"
    assert ended(fork(lambda: make(template))) == 0
    wanted, _ = undisturbed(template, folder / "whole")
    calls = json.loads(asked(lambda: json.dumps(_calls(copied(template, place)))))
    sent = Counter[str]()
    wrong = {"other exit codes": 0, "steps lost": 0, "other tables": 0}
    for number in range(count):
        phase = list(PHASES)[number % len(PHASES)]
        copied(template, place)
        watch.fresh()
        at, steps = chance.randrange(calls[phase]), Shared()
        code = ended(fork(lambda: _signalled(place, phase, at, steps), quiet=True))  # noqa: B023
        sent[phase] += 1
        watch.look(place)
        if code != 143:
            wrong["other exit codes"] += 1
            sys.stderr.write(f"{phase}, call {at}: exit code {code}\n")
        wrong["steps lost"] += not _saved(steps)
        assert ended(fork(lambda: run(place))) == 0
        watch.done(place)
        wrong["other tables"] += asked(lambda: table(place)) != wanted
    return {"signals": sum(sent.values()), "phases": len(sent), **wrong, **watch.counts()}


def _calls(place: Path) -> dict[str, int]:
    """How often a study that nothing disturbs comes by each phase."""
    found = Counter[str]()
    for phase in PHASES:
        _before(phase, lambda phase=phase: found.update([phase]))
    run(place)
    return {phase: found[phase] for phase in PHASES}


def _signalled(place: Path, phase: str, at: int, steps: Shared) -> None:
    """Run a study that gets a signal at some call of a phase, and notes every step it takes."""
    left = [at]

    def strike() -> None:
        left[0] -= 1
        if left[0] == -1:
            os.kill(os.getpid(), signal.SIGTERM)

    real = loop.Loop.update

    def noted(self: loop.Loop, *arguments: Any) -> None:
        real(self, *arguments)
        if self.state.folder is not None:  # not one that is only timed
            steps.put([str(self.state.folder), self.state.progress.step])

    loop.Loop.update = noted  # type: ignore[method-assign]
    # As the command line does: before a study listens there is nothing to save.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    _before(phase, strike)
    run(place)


def _before(phase: str, action: Callable[[], None]) -> None:
    """Let an action come before every call of a phase; only ever in a fork."""
    home, name = PHASES[phase]
    real = getattr(home, name)

    def called(*arguments: Any, **named: Any) -> Any:
        action()
        return real(*arguments, **named)

    setattr(home, name, called)


def _saved(steps: Shared) -> bool:
    """Whether the last step that was taken is in the checkpoint, or in a finished cell."""
    last = steps.get()
    if last is None:
        return True
    folder, step = Path(last[0]), last[1]
    index = folder / "checkpoint.json"
    if index.exists():
        return bool(json.loads(index.read_text("utf-8"))["progress"]["step"] == step)
    cell = next(path for path in folder.parents if path.parent.name == "cells")
    return not cell.exists() and (cell.parent / cell.name.partition(".")[0]).is_dir()
