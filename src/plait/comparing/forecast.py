"""How long the rest of a study is likely to take: estimated, then corrected by what finishes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from plait.comparing.words import duration
from plait.training.interrupts import poll

if TYPE_CHECKING:
    from plait.comparing.cells import Shard
    from plait.comparing.study import Study

CELL = 0.3  # seconds to load, measure and seal a cell, whatever it is
TRUST = 0.1  # the share of all work after which finished cells count as much as the estimate


def expected(study: Study, shard: Shard | None = None) -> dict[str, float]:
    """About how many seconds each missing cell takes, by key, from a few timed steps of each kind.

    They are seconds of a free machine with as many threads as this process has.
    """
    known = dict[tuple[str, str], float]()
    found = {}
    for cell in study.planned(shard):
        if study.store.finished(cell.key):
            continue
        poll()
        told = (str(cell.describe()["strategy"]), str(cell.plan.settings()))
        if told not in known:
            try:
                known[told] = cell.strategy.seconds(cell.plan)
            except Exception:  # the cell itself will fail, and say why
                known[told] = 0.0
        found[cell.key] = CELL + known[told]
    return found


def told(seconds: float) -> str:
    """An estimate in words, said before a study starts."""
    words = f"about {duration(seconds)}"
    return f"{words} (longer while the machine is as busy as now)" if busy() else words


def busy() -> bool:
    """Whether clearly more processes want to run than there are cores."""
    try:
        return os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1)
    except (AttributeError, OSError):  # not every system counts them
        return False


class Forecast:
    """The seconds that are left, from those ``expected`` of each cell and those that cells took.

    A busy machine, and trainings that stop early, make all cells of a study slower or quicker by
    about one factor, which is learnt from the cells that are done.
    """

    def __init__(self, expected: Mapping[str, float], *, workers: int = 1) -> None:
        self.remaining = dict(expected)
        self.workers = workers
        self._began: dict[str, float] = {}
        self._taken = self._planned = TRUST * sum(expected.values())

    def begin(self, key: str) -> None:
        """A cell is being computed, from now on or since it was first seen."""
        self._began.setdefault(key, time.monotonic())

    def end(self, key: str) -> None:
        """A cell needs no further work."""
        planned = self.remaining.pop(key, 0.0)
        if key in self._began:
            self._taken += time.monotonic() - self._began.pop(key)
            self._planned += planned

    def follow(self, running: Iterable[str], settled: Callable[[str], bool]) -> None:
        """What other processes do: the keys that are running, and whether a cell is settled."""
        for key in [key for key in self.remaining if settled(key)]:
            self.end(key)
        now = set(running)
        self._began = {key: began for key, began in self._began.items() if key in now}
        for key in now:
            self.begin(key)

    def replan(self, missing: Collection[str]) -> None:
        """Give the seconds of cells that are not missing any more to those missing in their stead.

        Cells under way are left alone: they end in their own time.
        """
        gone = [key for key in self.remaining if key not in missing and key not in self._began]
        new = [key for key in missing if key not in self.remaining]
        spared = sum(self.remaining.pop(key) for key in gone)
        self.remaining.update({key: spared / len(new) for key in new})

    def left(self) -> float:
        """Seconds until all is done; no less than the longest cell takes."""
        now = time.monotonic()
        slower = self._taken / self._planned if self._planned else 1.0
        works = [
            max(0.0, slower * planned - (now - self._began.get(key, now)))
            for key, planned in self.remaining.items()
        ]
        return max(sum(works) / self.workers, *works) if works else 0.0
