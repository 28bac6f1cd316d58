"""Computing the cells of a study: one after another, or shared by several processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from plait.comparing.cells import Cell
from plait.comparing.evaluate import latency, mean_loss, measured, predict_split, write_predictions
from plait.comparing.index import rebuild
from plait.comparing.model import Model, load_model
from plait.comparing.predictor import write_files
from plait.comparing.progress import Progress, duration
from plait.comparing.store import Store
from plait.training.interrupts import Interrupted
from plait.weights.files import read_json, write_atomic, write_json

if TYPE_CHECKING:
    from plait.comparing.study import Study

TRIES = 3  # a cell whose process died so often has failed
PAUSE = 0.2


def compute(store: Store, cell: Cell, about: Mapping[str, Any]) -> None:
    """Compute one cell that this process holds, and seal it; ``about`` goes with the model."""
    if store.attempts(cell.key) > TRIES:
        store.fail(cell.key, RuntimeError(f"its process died {TRIES} times (out of memory?)"))
        return
    with store.computing(cell) as folder:
        parts = {
            name: load_model(store.path(part.key) / "model") for name, part in cell.parts.items()
        }
        spent = folder / "spent.json"  # seconds of attempts that were cut off
        before = read_json(spent) if spent.exists() else 0.0
        try:
            with measured() as meter:
                model = cell.strategy.run(cell.plan, parts, cell.seed, folder / "work")
        except BaseException:
            write_json(spent, before + meter.seconds)
            raise
        cost = _evaluate(model, cell, folder)
        cost |= {"seconds": before + meter.seconds, "memory": meter.memory}
        about = {**about, **cell.describe()}
        preparation = cell.plan.dataset.preparation
        write_files(folder / "model", model, preparation, about, store.folder / "frozen")
        write_atomic(folder / "events.jsonl", _events(folder / "work"))
        write_json(folder / "cost.json", cost)
        shutil.rmtree(folder / "work", ignore_errors=True)
        for name in ("attempts.json", "spent.json"):
            (folder / name).unlink(missing_ok=True)


def _evaluate(model: Model, cell: Cell, folder: Path) -> dict[str, float | None]:
    dataset = cell.plan.dataset
    data = model.reading(dataset, cell.plan.folder)
    found = {
        "valid": predict_split(model, data, "valid"),
        "test": predict_split(model, data, "test"),
    }
    write_predictions(folder / "predictions.parquet", dataset, found)
    loss = mean_loss(model.tasks, found["valid"])
    cost = model.cost()
    return {
        "parameters": cost.parameters,
        "active": cost.active,
        "latency": latency(model, dataset),
        "valid_loss": loss if loss - loss == 0 else None,
    }


def _events(folder: Path) -> bytes:
    """All that the trainings of a cell logged, whole lines only."""
    paths = sorted(folder.rglob("events.jsonl"))
    lines = [line for path in paths for line in path.read_bytes().splitlines(keepends=True)]
    return b"".join(line for line in lines if line.endswith(b"\n"))


def step(study: Study, deadline: float | None, progress: Progress) -> bool | None:
    """Compute one cell that is due. True: done; False: others must finish first; None: all over."""
    store, waiting = study.store, False
    about = {"title": study.title, "id": study.id}
    for cell in study.wanted():
        if store.finished(cell.key) or store.failure(cell.key) is not None:
            continue
        failed = [name for name, part in cell.parts.items() if store.failure(part.key) is not None]
        if failed:
            store.fail(cell.key, RuntimeError(f"it needs {' and '.join(failed)}, which failed"))
            return True
        waiting = True
        if not all(store.finished(part.key) for part in cell.parts.values()):
            continue
        if deadline is not None and time.monotonic() > deadline:
            return None
        with store.claim(cell.key) as mine:
            if not mine or store.finished(cell.key):
                continue
            progress.begin(study.label_of(cell.key))
            try:
                compute(store, cell, about)
            except Exception as error:  # a failure is a row of the results, whatever it is
                progress.say(f"{study.label_of(cell.key)} failed: {_short(error)}")
                _free_memory()
            progress.end(done(study))
            return True
    return False if waiting else None


def work(study: Study, deadline: float | None, progress: Progress) -> None:
    """Compute cells until none is left that this process could do."""
    while (found := step(study, deadline, progress)) is not None:
        if not found:
            time.sleep(PAUSE)


def done(study: Study) -> int:
    """How many of the wanted cells need no further work."""
    store = study.store
    cells = study.wanted()
    return sum(store.finished(c.key) or store.failure(c.key) is not None for c in cells)


def run_study(
    study: Study, *, workers: int = 1, limit: float | None = None, progress: Progress | None = None
) -> None:
    """Compute the missing cells of a study; see :meth:`Study.run`."""
    from plait.comparing.progress import progress_for

    if workers > 1 and study.declared is None:
        raise ValueError("workers load the data themselves: give tables, not a Dataset")
    deadline = None if limit is None else time.monotonic() + limit
    study.store.forget_failures()
    for cell in study.wanted():
        study.store.sound(cell.key)
    progress = progress or progress_for()
    with terminating(), progress:
        total, finished = len(study.wanted()), done(study)
        if finished < total:
            expected = estimate(study) / workers
            progress.start(total, finished, expected)
            progress.say(opening(study, total - finished, expected, limit))
            if workers > 1:
                Workers(study, workers, deadline).run(progress)
            else:
                work(study, deadline, progress)
    rebuild(study.folder)


def opening(study: Study, cells: int, expected: float, limit: float | None) -> str:
    """What is said before anything is computed."""
    words = f"{cells} cells to compute in {study.folder}"
    words += f", at most about {duration(expected)}" if expected >= 1 else ""
    if limit is not None:
        words += f"; no cell is started after {duration(limit)}"
    return words


def estimate(study: Study) -> float:
    """About how many seconds the missing cells take, from a few timed steps of each kind."""
    total, known = 0.0, dict[tuple[str, str], float]()
    for cell in study.wanted():
        if study.store.finished(cell.key):
            continue
        told = (str(cell.describe()["strategy"]), str(cell.plan.settings()))
        if told not in known:
            try:
                known[told] = cell.strategy.seconds(cell.plan)
            except Exception:  # the cell itself will fail, and say why
                known[told] = 0.0
        total += known[told]
    return total


class Workers:
    """Processes that share the cells of a study; those that die are replaced."""

    def __init__(self, study: Study, count: int, deadline: float | None) -> None:
        self.study = study
        self.deadline = deadline
        self.count = count
        self.left = 2 * count + len(study.wanted())  # processes that may be started in all
        self.running: list[subprocess.Popen[bytes]] = []

    def run(self, progress: Progress) -> None:
        """Wait until all cells are done, starting processes as they are needed."""
        try:
            for _ in range(self.count):
                self._start()
            while self.running:
                time.sleep(PAUSE)
                progress.end(done(self.study))
                for process in [p for p in self.running if p.poll() is not None]:
                    self.running.remove(process)
                    if process.returncode == 1:  # an error of Python, which would come again
                        raise RuntimeError("a worker could not work; its message is above")
                    if process.returncode != 0 and self.left > 0:
                        progress.say(f"a worker died (exit code {process.returncode})")
                        self._start()
        finally:
            for process in self.running:
                process.terminate()
            for process in self.running:
                process.wait()

    def _start(self) -> None:
        self.left -= 1
        cores = os.cpu_count() or 1
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // self.count))
        command = [sys.executable, "-m", "plait.comparing.worker", str(self.study.folder)]
        if self.deadline is not None:
            command += ["--time", f"{max(0.0, self.deadline - time.monotonic()):.1f}"]
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        self.running.append(subprocess.Popen(command, env=environment))  # noqa: S603


@contextmanager
def terminating() -> Iterator[None]:
    """SIGTERM leaves with exit code 143: cells are whole or absent, so nothing is to be saved."""

    def leave(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise Interrupted

    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _short(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
