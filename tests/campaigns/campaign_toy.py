"""The study of the campaigns, small enough that a kill costs a fraction of a second.

Processes are forked from one that has imported everything and computed nothing, so that they begin
at once and no thread is lost on the way.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import json
import mmap
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl

from plait.comparing.declared import Declared
from plait.comparing.gathering import ranking
from plait.comparing.plan import Plan
from plait.comparing.progress import Progress
from plait.comparing.study import Study
from plait.data import DataSpec, TableSpec, TaskSpec
from plait.settings import Training
from plait.weights.files import DamagedError, verify

PATIENCE = 1800  # seconds after which a process that hangs is ended, and the campaign with it
WAYS = ("separate", "prior", "linear", "joint", "merge")
ENCODER = {"trunk": {"mlp": {"width": 4, "depth": 1}}}


def make(
    folder: Path,
    *,
    passes: int = 2,
    seeds: int = 1,
    rows: int = 60,
    only: tuple[str, ...] = WAYS,
) -> None:
    """Write a study that is still to be run, with its data beside it."""
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(rows, 3))
    click = np.where(x @ [1.0, -1.0, 0.5] + numbers.normal(size=rows) > 0, "yes", "no")
    columns: dict[str, Any] = {f"x{i}": x[:, i] for i in range(3)}
    frame = pl.DataFrame({**columns, "click": click, "price": x @ [2.0, 1.0, 0.0] + 5.0})
    declared = Declared(
        data=DataSpec(tables={"table": TableSpec(source=frame)}),
        tasks={"click": TaskSpec(target="click"), "price": TaskSpec(target="price")},
    ).kept(folder / "data")
    training = Training(passes=passes, batch=16, patience=None)
    plan = Plan.of(declared.load(), encoder=ENCODER, training=training)
    ways = {name: name for name in only}
    Study(
        plan, ways, folder=folder, seeds=seeds, title="Toy", declared=declared, baselines=False
    ).write()


def run(folder: Path) -> None:
    """Compute what is missing, in this process."""
    study = Study.open(folder).run(progress=Progress())
    assert not study.failures(), study.failures()


def table(folder: Path) -> str:
    """A hash of all that a run found: every prediction of every cell, and the scores."""
    study = Study.open(folder)
    whole = hashlib.sha256()
    places = dict(sorted(study.cells().items(), key=lambda item: str(item[0])))
    for place, cell in places.items():
        whole.update(str(place).encode())
        whole.update((study.store.path(cell.key) / "predictions.parquet").read_bytes())
    found = ranking(study, places, "test")
    whole.update(repr([(s.strategy, s.task, s.metrics, s.gain) for s in found.scores]).encode())
    return whole.hexdigest()


# -- processes --------------------------------------------------------------------------------


def fork(work: Callable[[], Any], *, quiet: bool = False) -> int:
    """Run a function in a forked process; its exit code is 0, or 1 after an error."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        die_with_parent()
        signal.alarm(PATIENCE)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if quiet:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        work()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0) if isinstance(error.code, int | None) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def die_with_parent() -> None:
    """No process of a campaign outlives it."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def ended(process: int) -> int:
    """Wait for a process; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def asked(work: Callable[[], str]) -> str:
    """What a function says in a process of its own: this one must start no threads."""
    reading, writing = os.pipe()
    process = fork(lambda: os.write(writing, work().encode()))
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    assert ended(process) == 0
    return told


class Shared:
    """A few words that a process and its fork both see."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)

    def put(self, value: Any) -> None:
        """Store plain data."""
        told = json.dumps(value).encode()
        self._memory[: len(told) + 1] = told + b"\0"

    def get(self) -> Any:
        """The last that was stored; None if nothing was."""
        told = bytes(self._memory).partition(b"\0")[0]
        return json.loads(told) if told else None


# -- folders ----------------------------------------------------------------------------------


@dataclass
class Watch:
    """Looks at the folder of a run after each blow, and counts what should never be there."""

    lost: int = 0
    torn: int = 0
    twice: int = 0
    strays: int = 0
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)

    def fresh(self) -> None:
        """Another folder comes."""
        self.seen = {}

    def look(self, folder: Path) -> int:
        """Check the finished cells; how many there are."""
        cells = folder / "cells"
        there = [p for p in cells.glob("*") if p.is_dir() and "." not in p.name]
        for cell in there:
            try:
                verify(cell)
            except DamagedError:
                self.torn += 1
                continue
            state = (cell / "manifest.json").stat()
            mark = (state.st_ino, state.st_mtime_ns)
            self.twice += self.seen.setdefault(cell.name, mark) != mark
        self.lost += len(set(self.seen) - {cell.name for cell in there})
        return len(there)

    def done(self, folder: Path) -> None:
        """Check a folder whose study is finished: only results may be left."""
        self.look(folder)
        for pattern in ("**/.*.tmp", "cells/*.part", "cells/*/work", "cells/*.json", "leases/*"):
            self.strays += len(list(folder.glob(pattern)))

    def counts(self) -> dict[str, int]:
        """What was found."""
        return {"lost": self.lost, "torn": self.torn, "twice": self.twice, "strays": self.strays}


def copied(template: Path, folder: Path) -> Path:
    """A fresh copy of a study; the one before goes."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    return folder


def _imported(folder: Path) -> str:
    run(folder)
    table(folder)
    return "\n".join(name for name in sys.modules if not name.startswith("_"))


def undisturbed(template: Path, folder: Path) -> tuple[str, float]:
    """What a run finds that nothing disturbs, and how long it takes in a fork.

    What it imports is then imported here, once for all forks to come.
    """
    copied(template, folder)
    for name in asked(lambda: _imported(folder)).split():
        with suppress(ImportError):
            importlib.import_module(name)
    copied(template, folder)
    start = time.monotonic()
    assert ended(fork(lambda: run(folder))) == 0
    return asked(lambda: table(folder)), time.monotonic() - start
