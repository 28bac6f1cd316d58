"""The folder of a run: finished cells are whole, sealed and never computed twice.

::

    run/
      study.yaml          the study as it was given
      study.json          the same for plait: labels, seeds, tasks, facts
      plait.lock.json     versions, seeds, threads, hashes
      index.sqlite        only an index: it can be deleted, and is made again from the folders
      cells/<key>/        a finished cell: cell.json, model/, predictions.parquet, events.jsonl,
                          cost.json and, written last, manifest.json with every file's SHA-256
      cells/<key>.part/   a cell that is being computed, or was when the process was killed
      cells/<key>.failed.json
      locks/<key>         held by the process that computes the cell

A cell is computed in its ``.part`` folder, which is sealed and then renamed: a folder without the
suffix is finished. What a killed training left in a ``.part`` folder (its checkpoint) is what it
continues from.
"""

from __future__ import annotations

import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plait.comparing.cells import Cell
from plait.weights.files import DamagedError, flush, publish, read_json, sweep, verify, write_json


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why a cell did not finish."""

    key: str
    error: str
    details: str = ""


class Store:
    """The cells of a run, found by key. Making one sweeps what killed processes left behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.cells = self.folder / "cells"
        self.locks = self.folder / "locks"
        for path in (self.cells, self.locks):
            path.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)

    def path(self, key: str) -> Path:
        """Where a finished cell lies."""
        return self.cells / key

    def working(self, key: str) -> Path:
        """Where a cell is computed."""
        return self.cells / f"{key}.part"

    def finished(self, key: str) -> bool:
        """Whether a cell is there, whole."""
        return self.path(key).is_dir()

    def keys(self) -> list[str]:
        """The keys of all finished cells."""
        return sorted(p.name for p in self.cells.iterdir() if p.is_dir() and p.suffix != ".part")

    def sound(self, key: str) -> bool:
        """Whether a finished cell is what was sealed; a damaged one is removed with a warning."""
        if not self.finished(key):
            return False
        try:
            verify(self.path(key))
        except DamagedError as error:
            warnings.warn(f"{error}; it is computed again", stacklevel=2)
            shutil.rmtree(self.path(key))
            return False
        return True

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Hold a cell for this process; False where another process holds it."""
        with (self.locks / key).open("a+b") as file:
            if not _lock(file.fileno()):
                yield False
                return
            yield True  # closing the file gives the lock back, and so does the process's death

    @contextmanager
    def computing(self, cell: Cell) -> Iterator[Path]:
        """The folder to compute a claimed cell in; sealed and moved into place at the end.

        What an error leaves is kept for the next attempt, and the error is kept as a failure.
        """
        folder = self.working(cell.key)
        folder.mkdir(exist_ok=True)
        write_json(folder / "cell.json", cell.describe())
        try:
            yield folder
        except Exception as error:
            self.fail(cell.key, error)
            raise
        publish(folder, {"key": cell.key})
        folder.rename(self.path(cell.key))
        flush(self.cells)
        self._failure(cell.key).unlink(missing_ok=True)

    def fail(self, key: str, error: BaseException) -> None:
        """Record why a cell did not finish."""
        told = {
            "key": key,
            "error": " ".join(f"{type(error).__name__}: {error}".split()),
            "details": "".join(traceback.format_exception(error)),
        }
        write_json(self._failure(key), told)

    def failure(self, key: str) -> Failed | None:
        """Why a cell did not finish, when it was last tried."""
        path = self._failure(key)
        if self.finished(key) or not path.exists():
            return None
        return Failed(**read_json(path))

    def forget_failures(self) -> None:
        """Let every cell that failed be tried again, and be begun as often as a new one."""
        for path in (*self.cells.glob("*.failed.json"), *self.cells.glob("*.part/attempts.json")):
            path.unlink(missing_ok=True)

    def read(self, key: str, name: str) -> Any:
        """A JSON file of a finished cell."""
        return read_json(self.path(key) / name)

    def attempts(self, key: str) -> int:
        """How often computing a cell was begun, this time included."""
        path = self.working(key) / "attempts.json"
        path.parent.mkdir(exist_ok=True)
        count = (read_json(path) if path.exists() else 0) + 1
        write_json(path, count)
        return count

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """A JSON file of the run itself."""
        write_json(self.folder / name, value)

    def _failure(self, key: str) -> Path:
        return self.cells / f"{key}.failed.json"


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
