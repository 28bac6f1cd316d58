"""The folder of a run: finished cells are whole, sealed and never computed twice.

::

    run/
      study.yaml           the study as it was given
      study.json           the same for plait: labels, seeds, tasks, facts
      plait.lock.json      versions, seeds, threads, hashes
      index.sqlite         only an index: it can be deleted, and is made again from the folders
      cells/<key>/         a finished cell: cell.json, model/, predictions.parquet, events.jsonl,
                           cost.json and, written last, manifest.json with every file's SHA-256
      cells/<key>.<n>.part/  a cell that the holder of lease n computes, or did until it was killed
      cells/<key>.failed.json
      leases/<key>/<n>/    who computes the cell: see :mod:`plait.comparing.leases`

A cell is computed in its ``.part`` folder, which is sealed and then renamed: a folder without the
suffix is finished. The holder of the next lease first renames the folder to its own number, so what
a killed training left (its checkpoint, below ``work``) is what it continues from, and a process
that was only thought dead can publish nothing. Opening a store writes nothing.
"""

from __future__ import annotations

import shutil
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plait.comparing.cells import Cell
from plait.comparing.leases import Lease, LeaseLostError, Leases
from plait.weights.files import (
    MANIFEST,
    DamagedError,
    discard,
    flush,
    publish,
    published,
    read_json,
    sweep,
    verify,
    write_atomic,
    write_json,
)

ESTIMATE = "estimate.json"  # seconds, told by the first of several workers
WORK = "work"  # what a strategy keeps while it runs: checkpoints, events


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why a cell did not finish."""

    key: str
    error: str
    details: str = ""


class Store:
    """The cells of a run, found by key."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.cells = self.folder / "cells"
        self.leases = Leases(self.folder / "leases")

    def path(self, key: str) -> Path:
        """Where a finished cell lies."""
        return self.cells / key

    def working(self, lease: Lease) -> Path:
        """Where the holder of a lease computes."""
        return self.cells / f"{lease.key}.{lease.number}.part"

    def finished(self, key: str) -> bool:
        """Whether a cell is there, whole."""
        return self.path(key).is_dir()

    def settled(self, key: str) -> bool:
        """Whether a cell needs no further work: it is finished, or has failed."""
        return self.finished(key) or self._failure(key).exists()

    def keys(self) -> list[str]:
        """The keys of all finished cells."""
        if not self.cells.is_dir():
            return []
        return sorted(p.name for p in self.cells.iterdir() if p.is_dir() and "." not in p.name)

    def read(self, key: str, name: str) -> Any:
        """A JSON file of a finished cell."""
        return read_json(self.path(key) / name)

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """A JSON file of the run itself."""
        write_json(self.folder / name, value)

    # -- one cell -------------------------------------------------------------------------------

    @contextmanager
    def computing(self, cell: Cell, lease: Lease, **facts: Any) -> Iterator[Path | None]:
        """The folder to compute a leased cell in; sealed and moved into place at the end.

        None where a killed process had left only that to do. ``facts`` go beside the cell's
        description. What an error leaves is kept for the next attempt. Raises
        :class:`LeaseLostError`, and publishes nothing, where another process has the cell now.
        """
        folder = self._take_over(lease)
        if published(folder):
            yield None
        else:
            write_json(folder / "cell.json", {**cell.describe(), **facts})
            yield folder
            publish(folder, {"key": cell.key}, leave=(WORK,))
        self._publish(lease, folder)

    def _take_over(self, lease: Lease) -> Path:
        """The folder of a lease, with what the one before left."""
        mine = self.working(lease)
        for left in self._parts(lease.key):
            with suppress(FileNotFoundError):  # its owner has just published it
                left.rename(mine)
                break
        if self.finished(lease.key):
            raise LeaseLostError(lease.key)
        mine.mkdir(parents=True, exist_ok=True)
        for path in list(mine.rglob(".*.tmp")):  # whoever wrote them does not own the folder now
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for path in list(mine.rglob("*.jsonl")):  # a former owner's open handle leads nowhere then
            write_atomic(path, path.read_bytes())
        if published(mine):
            try:
                verify(mine)
            except DamagedError:
                (mine / MANIFEST).unlink()
        return mine

    def _publish(self, lease: Lease, folder: Path) -> None:
        if not lease.held():
            discard(folder)
            raise LeaseLostError(lease.key)
        try:
            folder.rename(self.path(lease.key))
        except OSError as error:
            if folder.exists() and not self.finished(lease.key):
                raise
            discard(folder)
            raise LeaseLostError(lease.key) from error
        flush(self.cells)
        discard(self.path(lease.key) / WORK)
        self._failure(lease.key).unlink(missing_ok=True)
        self.leases.clear(lease.key)

    def _parts(self, key: str) -> list[Path]:
        """The folders that a cell was computed in, the latest first."""
        return sorted(self.cells.glob(f"{key}*.part"), key=_number, reverse=True)

    # -- failures -------------------------------------------------------------------------------

    def fail(self, key: str, error: BaseException | str) -> None:
        """Record why a cell did not finish: an error, or words."""
        told = {"key": key, "error": error, "details": ""}
        if isinstance(error, BaseException):
            told["error"] = " ".join(f"{type(error).__name__}: {error}".split())
            told["details"] = "".join(traceback.format_exception(error))
        write_json(self._failure(key), told)

    def failure(self, key: str) -> Failed | None:
        """Why a cell did not finish, when it was last tried."""
        try:
            return None if self.finished(key) else Failed(**read_json(self._failure(key)))
        except FileNotFoundError:
            return None

    def forget_failures(self, keys: Iterable[str]) -> None:
        """Let cells that failed be tried again, and be begun as often as new ones."""
        for key in keys:
            self._failure(key).unlink(missing_ok=True)
            self.leases.forgive(key)

    def _failure(self, key: str) -> Path:
        return self.cells / f"{key}.failed.json"

    # -- order ----------------------------------------------------------------------------------

    def sound(self, key: str) -> bool:
        """Whether a finished cell is what was sealed; a damaged one is removed with a warning."""
        if not self.finished(key):
            return False
        try:
            verify(self.path(key))
        except DamagedError as error:
            warnings.warn(f"{error}; it is computed again", stacklevel=2)
            discard(self.path(key))
            return False
        return True

    def tidy(self) -> None:
        """Remove what killed processes left behind, as far as no living one can need it."""
        self.cells.mkdir(parents=True, exist_ok=True)
        self.leases.folder.mkdir(exist_ok=True)
        (self.folder / ESTIMATE).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "locks", ignore_errors=True)  # of the first version
        sweep(self.folder)
        held = {(lease.key, lease.number) for lease, _ in self.leases.running()}
        for key in self.keys():
            discard(self.path(key) / WORK)
            self._failure(key).unlink(missing_ok=True)
            if not any(key == other for other, _ in held):
                self.leases.clear(key)
        latest: set[str] = set()
        for part in sorted(self.cells.glob("*.part"), key=_number, reverse=True):
            key, number = part.name.split(".")[0], _number(part)
            if (self.finished(key) or key in latest) and (key, number) not in held:
                discard(part)
            latest.add(key)


def _number(part: Path) -> int:
    """The lease that a ``.part`` folder belongs to; 0 for those of earlier versions."""
    number = part.name.removesuffix(".part").partition(".")[2]
    return int(number) if number.isdigit() else 0
