"""Processes on this machine that share the cells of a study; those that die are replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from plait.comparing.computing import OVERDUE
from plait.comparing.forecast import Forecast
from plait.comparing.memory import kernel_kills
from plait.comparing.running import PAUSE, Bounds, done, opening, replan
from plait.comparing.space import EXIT_CODE, full
from plait.comparing.store import ESTIMATE
from plait.weights.files import DamagedError, read_json

if TYPE_CHECKING:
    from plait.comparing.progress import Progress
    from plait.comparing.study import Study

GRACE = 60.0  # seconds that workers have to save when all is to end
USELESS = 3  # so many deaths one after another without a cell are no accident


class Workers:
    """``count`` processes, each computing one cell at a time."""

    def __init__(self, study: Study, count: int, bounds: Bounds) -> None:
        self.study = study
        self.count = count
        self.bounds = bounds
        self.running: list[subprocess.Popen[bytes]] = []
        self._useless = 0

    def run(self, progress: Progress) -> None:
        """Wait until all cells are settled, starting processes as they are needed.

        Raises ``ChildProcessError`` where workers cannot work, ``NoSpaceError`` for a full disk.
        """
        told = self.study.folder / ESTIMATE
        told.unlink(missing_ok=True)
        progress.say(opening(self.study, progress.total - progress.done, self.bounds))
        kills = kernel_kills()
        try:
            for number in range(self.count):
                self._start(*(["--estimate"] if number == 0 else []))
            while self.running:
                time.sleep(PAUSE)
                self._show(progress)
                before, kills = kills, kernel_kills()
                for process in [p for p in self.running if p.poll() is not None]:
                    self.running.remove(process)
                    if process.returncode != 0:
                        self._replace(process, killed=kills > before, progress=progress)
        finally:
            self._end()
            told.unlink(missing_ok=True)

    def _replace(
        self, process: subprocess.Popen[bytes], *, killed: bool, progress: Progress
    ) -> None:
        """Say what became of a dead worker's cell, and start another."""
        code = process.returncode
        if code == EXIT_CODE:
            raise full(self.study.folder)
        if code == 1:  # an error of Python, which would come again
            raise ChildProcessError("a worker could not work; its message is above")
        memory = killed and code == -signal.SIGKILL
        cell = ""
        for lease, owner in self.study.store.leases.held_by(process.pid):
            lease.end("memory" if memory else "died")
            cell = owner.label
        why = "out of memory" if memory else f"exit code {code}"
        self._useless = 0 if cell or code == OVERDUE else self._useless + 1
        if self._useless > USELESS + self.count:
            raise ChildProcessError(f"workers die before they begin ({why})")
        progress.say(f"a worker died ({why})" + (f" computing {cell}" if cell else ""))
        self._start()

    def _show(self, progress: Progress) -> None:
        store = self.study.store
        if progress.forecast is None:
            with suppress(FileNotFoundError, DamagedError):
                expected = read_json(self.study.folder / ESTIMATE)
                progress.forecast = Forecast(expected, workers=self.count)
        names = {lease.key: owner.label for lease, owner in store.leases.running()}
        progress.follow(done(self.study, self.bounds.shard), names, store.settled)
        replan(self.study, self.bounds.shard, progress)

    def _start(self, *more: str) -> None:
        cores = os.cpu_count() or 1
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // self.count))
        command = [sys.executable, "-m", "plait.comparing.worker", str(self.study.folder), *more]
        bounds = self.bounds
        given = {"--time": bounds.left, "--cell-time": bounds.cell, "--shard": bounds.shard}
        for name, value in given.items():
            command += [] if value is None else [name, str(value)]
        # What libraries print must not get between the lines of a JSON document on stdout.
        output = sys.stderr if _real(sys.stderr) else subprocess.DEVNULL
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        self.running.append(subprocess.Popen(command, env=environment, stdout=output))  # noqa: S603

    def _end(self) -> None:
        """Let every worker save and leave; those that do not are killed."""
        for process in self.running:
            process.terminate()
        until = time.monotonic() + GRACE
        for process in self.running:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _real(stream: object) -> bool:
    """Whether a stream is a file that another process can write to (in a notebook it is not)."""
    try:
        stream.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
    return True
