"""Leases: which process computes a cell, told by folders and atomic renames alone.

::

    leases/<key>/<number>/   made beside its place with all that it holds, then renamed
      owner.json             who holds it; the owner touches this file while it works
      ended                  one word: how it ended

The lease with the highest number counts. A number is given to one process only: renaming a folder
onto one that is there fails. The next number is given when the lease before has ended or is stale:
its process is gone from this machine, or the storage's own time of ``owner.json`` has not moved
for a while of the watcher's own. Clocks of two machines are never compared, and nothing is locked.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from plait.weights.files import alive, born, temporary_beside

BEAT = 5.0  # seconds between two signs of life
SILENT = 90.0  # a network file system may show a sign of life a minute late
OWNER, ENDED = "owner.json", "ended"
COUNTED = ("died", "memory")

_MINE: set[Path] = set()  # the places this process was given and has not ended


class LeaseLostError(RuntimeError):
    """Another process has taken the cell over; what this one made of it is not wanted."""


@cache
def machine() -> str:
    """The machine, told from its former starts and from other spaces of process numbers."""
    found = [platform.node()]
    with suppress(OSError):
        found.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip())
        found.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(found)


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that holds a lease, and for what, in words."""

    host: str = field(default_factory=platform.node)
    machine: str = field(default_factory=machine)
    process: int = field(default_factory=os.getpid)
    born: str = field(default_factory=lambda: born(os.getpid()))
    label: str = ""

    def gone(self) -> bool:
        """Whether it is certain that the process has ended: only its own machine can know."""
        return self.machine == machine() and not alive(self.process, self.born)


@dataclass(frozen=True)
class Lease:
    """A number that a process was given for a cell."""

    folder: Path
    number: int

    @property
    def key(self) -> str:
        """The cell's."""
        return self.folder.name

    @property
    def place(self) -> Path:
        """The folder of this number."""
        return self.folder / f"{self.number:04d}"

    def held(self) -> bool:
        """Whether no other process has ended it or been given a later number."""
        return newest(self.folder) == self.number and not (self.place / ENDED).exists()

    def beat(self) -> None:
        """Give a sign of life; needs no space on the disk."""
        os.utime(self.place / OWNER)

    def end(self, how: str) -> None:
        """Say how it ended, for those who come after, if that can be written."""
        _MINE.discard(self.place.resolve())
        with suppress(OSError):
            (self.place / ENDED).write_text(how, "ascii")

    @property
    def ended(self) -> str:
        """How it ended; empty while it has not, and where its owner could not say."""
        try:
            return (self.place / ENDED).read_text("ascii") or "died"
        except OSError:
            return ""

    @property
    def owner(self) -> Owner | None:
        """Who was given it; None where that cannot be read."""
        try:
            return Owner(**json.loads((self.place / OWNER).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def gone(self, owner: Owner) -> bool:
        """Whether its owner is gone for certain, or is this process and could not say it ended."""
        here = (owner.process, owner.machine) == (os.getpid(), machine())
        return owner.gone() or (here and self.place.resolve() not in _MINE)

    @contextmanager
    def beating(self, lost: Callable[[], None], every: float = BEAT) -> Iterator[None]:
        """Give signs of life in the background; ``lost`` is called once where it was lost."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(every):
                try:
                    if not self.held():
                        return lost()
                    self.beat()
                except FileNotFoundError:
                    return lost()
                except OSError:  # a network's hiccup: others see silence, if it lasts
                    continue
            return None

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


class Leases:
    """The leases of a run. ``silent`` seconds without a sign of life make one stale."""

    def __init__(self, folder: Path, *, silent: float = SILENT) -> None:
        self.folder = folder
        self.silent = silent
        self._seen: dict[Path, tuple[int, float]] = {}

    def claim(self, key: str, label: str = "") -> Lease | None:
        """The next number of a cell; None while another process holds it."""
        last = self.last(key)
        if last is not None and not self.over(last):
            return None
        mine = Lease(self.folder / key, last.number + 1 if last else 1)
        made = temporary_beside(mine.place)
        try:
            made.mkdir(parents=True)
            (made / OWNER).write_text(json.dumps(asdict(Owner(label=label))), "utf-8")
            _MINE.add(mine.place.resolve())
            made.rename(mine.place)
        except FileNotFoundError:  # the cell was finished just now, and its leases forgotten
            return None
        except OSError:
            if not mine.place.exists():  # nobody was quicker: the storage is at fault
                raise
            return None
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return mine

    def last(self, key: str) -> Lease | None:
        """The lease that counts."""
        number = newest(self.folder / key)
        return Lease(self.folder / key, number) if number else None

    def over(self, lease: Lease) -> bool:
        """Whether a lease has ended or is stale, so that the next number can be given."""
        return bool(lease.ended) or self.lost(lease)

    def lost(self, lease: Lease) -> bool:
        """Whether the owner is gone, or has been silent for as long as this process watched."""
        owner = lease.owner
        if owner is not None and lease.gone(owner):
            return True
        try:
            with (lease.place / OWNER).open("rb") as file:  # opening asks the server, not a cache
                sign = os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            sign = 0
        seen, since = self._seen.get(lease.place, (-1, 0.0))
        if sign != seen:
            self._seen[lease.place] = (sign, time.monotonic())
            return False
        return time.monotonic() - since > self.silent

    def running(self) -> Iterator[tuple[Lease, Owner]]:
        """The leases that are held, as far as can be known at once."""
        for folder in sorted(self.folder.glob("*")):
            last = self.last(folder.name)
            owner = None if last is None or last.ended else last.owner
            if last and owner and not last.gone(owner):
                yield last, owner

    def held_by(self, process: int) -> Iterator[tuple[Lease, Owner]]:
        """The leases that a process of this machine holds, or held when it died."""
        for folder in sorted(self.folder.glob("*")):
            last = self.last(folder.name)
            owner = None if last is None or last.ended else last.owner
            if last and owner and (owner.process, owner.machine) == (process, machine()):
                yield last, owner

    def ways(self, key: str) -> list[str]:
        """How the leases of a cell ended since it was last begun anew: ``died`` or ``memory``."""
        found: list[str] = []
        last = newest(self.folder / key)
        for number in sorted(numbers(self.folder / key)):
            lease = Lease(self.folder / key, number)
            how = lease.ended
            if not how and (number < last or self.lost(lease)):
                how = "died"
            found = [] if how in ("failed", "forgiven") else [*found, how]
        return [how for how in found if how in COUNTED]

    def forgive(self, key: str) -> None:
        """Let a cell be begun as often as a new one, unless it is being computed now."""
        last = self.last(key)
        if last is not None and self.over(last):
            last.end("forgiven")

    def clear(self, key: str) -> None:
        """Forget the leases of a cell that is finished."""
        shutil.rmtree(self.folder / key, ignore_errors=True)


def numbers(folder: Path) -> list[int]:
    """The numbers given for a cell."""
    try:
        return [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
    except OSError:
        return []


def newest(folder: Path) -> int:
    """The highest number given for a cell; 0 where there is none."""
    return max(numbers(folder), default=0)
