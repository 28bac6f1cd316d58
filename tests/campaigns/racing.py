"""Two processes on one cell: whatever happens between them, one result."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from campaign_toy import copied, ended, fork, make

from plait.comparing.cells import Cell
from plait.comparing.leases import Lease, LeaseLostError, Leases
from plait.comparing.store import Store
from plait.comparing.study import Study
from plait.weights.files import verify, write_json

SILENT = 0.05  # seconds after which a stopped process is taken for dead
MOMENTS = ("before its folder", "while it computes", "before it publishes")


def campaign(count: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Half the rounds let several begin at once, half stop one at the worst moments."""
    chance = random.Random(seed)
    template = folder / "template"
    assert ended(fork(lambda: make(template))) == 0
    one = twice = none = wrong = 0
    for number in range(count):
        place = copied(template, folder / "run")
        (place / "cells").mkdir()
        (place / "leases").mkdir()
        told = folder / "told"
        told.unlink(missing_ok=True)
        if number % 2:
            codes = _together(place, told, chance.choice((2, 4)))
        else:
            codes = _overtaken(place, told, MOMENTS[number // 2 % len(MOMENTS)])
        published = told.read_text().split() if told.exists() else []
        one, twice, none = (
            one + (len(published) == 1), twice + (len(published) > 1), none + (not published),
        )  # fmt: skip
        wrong += any(codes) or not _whole(place)
    return {
        "rounds": count, "one result": one, "two results": twice, "no result": none,
        "not whole": wrong,
    }  # fmt: skip


def _together(place: Path, told: Path, count: int) -> list[int]:
    """Several processes begin at once."""
    processes = [fork(lambda: _race(place, told, 0)) for _ in range(count)]
    return [ended(process) for process in processes]


def _overtaken(place: Path, told: Path, moment: str) -> list[int]:
    """One process stops itself; when another has published the cell, it goes on."""
    slow = fork(lambda: _race(place, told, 0, lambda: _stop_at(moment)))
    os.waitpid(slow, os.WUNTRACED)
    quick = ended(fork(lambda: _race(place, told, SILENT)))
    os.kill(slow, signal.SIGCONT)
    return [quick, ended(slow)]


def _stop_at(moment: str) -> None:
    """Let this process stop itself there."""
    name = {"before its folder": "_take_over", "before it publishes": "held"}.get(moment)
    stop = lambda: os.kill(os.getpid(), signal.SIGSTOP)  # noqa: E731
    if name is None:
        _COMPUTING.append(stop)
        return
    home = Lease if moment == "before it publishes" else Store
    real = getattr(home, name)

    def stopped(*arguments: Any) -> Any:
        setattr(home, name, real)  # only once
        found = real(*arguments) if home is Lease else None
        stop()
        return found if home is Lease else real(*arguments)

    setattr(home, name, stopped)


_COMPUTING: list[Callable[[], None]] = []


def _race(
    place: Path, told: Path, silent: float, prepare: Callable[[], None] | None = None
) -> None:
    """Try for the one cell until somebody has published it."""
    if prepare is not None:
        prepare()
    study = Study.open(place)
    cell: Cell = study.wanted()[0]
    store = Store(place)
    store.leases = Leases(place / "leases", silent=silent or 90.0)
    while not store.finished(cell.key):
        lease = store.leases.claim(cell.key)
        if lease is None:
            time.sleep(0.005)
            continue
        if store.finished(cell.key):
            store.leases.clear(cell.key)
            break
        try:
            with store.computing(cell, lease) as folder:
                for stop in _COMPUTING:
                    stop()
                if folder is not None:  # else all but the last step had been done
                    write_json(folder / "cost.json", os.getpid())
        except (LeaseLostError, FileNotFoundError):
            assert not lease.held()
            continue
        with told.open("a") as file:
            file.write(f"{os.getpid()} ")


def _whole(place: Path) -> bool:
    """Whether the one cell is there and sealed, and nothing beside it."""
    (cell,) = (place / "cells").iterdir()
    return not list((place / "leases").iterdir()) and bool(verify(cell))
