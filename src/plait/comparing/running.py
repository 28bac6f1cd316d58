"""Computing the cells of a study: one after another here, or shared by several processes."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from sqlite3 import Error as IndexFault
from typing import TYPE_CHECKING, Self

from plait.comparing.cells import Cell, Shard
from plait.comparing.computing import attempt
from plait.comparing.forecast import Forecast, expected, told
from plait.comparing.index import rebuild
from plait.comparing.progress import Progress, progress_for
from plait.comparing.space import keeping, need
from plait.comparing.store import Store
from plait.comparing.words import duration
from plait.training.interrupts import Terminated, poll
from plait.weights.files import MANIFEST, read_json

if TYPE_CHECKING:
    from plait.comparing.study import Study

PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between two looks at what others have done


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What is to be computed: until when (monotonic), how long a cell may take, which share.

    ``alone``: this process does nothing else, and may be ended where a cell does not stop in time.
    """

    deadline: float | None = None
    cell: float | None = None
    shard: Shard | None = None
    alone: bool = False

    @classmethod
    def of(cls, seconds: float | None = None, **more: object) -> Self:
        """Bounds that end after so many seconds from now."""
        deadline = None if seconds is None else time.monotonic() + seconds
        return cls(deadline=deadline, **more)  # type: ignore[arg-type]

    @property
    def left(self) -> float | None:
        """Seconds until no cell is begun; None without such a time."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


def run_study(
    study: Study,
    bounds: Bounds,
    *,
    workers: int = 0,
    on: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Compute the missing cells of a study; see :meth:`Study.run`."""
    if on not in (None, "ray"):
        raise ValueError(f"cells cannot be computed on {on!r}; the one way there is is 'ray'")
    if (workers or on) and study.declared is None:
        raise ValueError("workers load the data themselves: give tables, not a Dataset")
    progress = progress or progress_for()
    with Terminated(), progress, keeping(study.folder):
        ready(study, bounds)
        total, finished = len(study.planned(bounds.shard)), done(study, bounds.shard)
        if finished < total:
            progress.start(total, finished)
            _run(study, bounds, workers, on, progress)
        with suppress(OSError, IndexFault):  # it is only an index
            rebuild(study.folder)


def ready(study: Study, bounds: Bounds) -> None:
    """Bring the folder into order: strays and damaged cells go, failures get another try."""
    store = study.store
    store.tidy()
    wanted = study.planned(bounds.shard)
    store.forget_failures(cell.key for cell in wanted)
    for cell in wanted:
        store.sound(cell.key)
    missing = sum(not store.finished(cell.key) for cell in wanted)
    if missing:
        need(study.folder, missing * mean_size(store))


def _run(study: Study, bounds: Bounds, workers: int, on: str | None, progress: Progress) -> None:
    if on == "ray":
        from plait.comparing.on_ray import Cluster

        Cluster(study, bounds, workers).run(progress)
    elif workers:
        from plait.comparing.workers import Workers

        Workers(study, workers, bounds).run(progress)
    else:
        progress.forecast = Forecast(expected(study, bounds.shard))
        left = progress.total - progress.done
        progress.say(opening(study, left, bounds, progress.forecast.left()))
        work(study, bounds, progress)


def work(study: Study, bounds: Bounds, progress: Progress) -> None:
    """Compute cells until none is left that this process could do."""
    pause = PAUSE
    while (found := step(study, bounds, progress)) is not None:
        poll()
        if found:
            pause = PAUSE
        else:
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, 1.5 * pause)


def step(study: Study, bounds: Bounds, progress: Progress) -> bool | None:
    """Compute one cell that is due. True: done; False: others must finish first; None: all over."""
    waiting = False
    for cell in due(study, bounds.shard):
        waiting = True
        if bounds.left == 0:
            return None
        if not all(study.store.finished(part.key) for part in cell.parts.values()):
            continue
        if compute_one(study, cell, bounds, progress):
            return True
    return False if waiting else None


def due(study: Study, shard: Shard | None) -> Iterable[Cell]:
    """The cells that are not settled; those that need a failed one are recorded as failed."""
    store = study.store
    for cell in study.wanted(shard):
        if store.settled(cell.key):
            continue
        failed = [name for name, part in cell.parts.items() if store.failure(part.key) is not None]
        if failed:
            store.fail(cell.key, f"it needs {' and '.join(failed)}, which failed")
            continue
        yield cell


def compute_one(study: Study, cell: Cell, bounds: Bounds, progress: Progress) -> bool:
    """Compute a cell whose parts are there; False where another process has it."""
    store, label = study.store, study.label_of(cell.key)
    lease = store.leases.claim(cell.key, label)
    if lease is None:
        return False
    if store.settled(cell.key):  # since it was looked at
        lease.end("interrupted")
        if store.finished(cell.key):
            store.leases.clear(cell.key)
        return True
    progress.begin(label, cell.key)
    about = {"title": study.title, "id": study.id}
    wrong = attempt(store, cell, lease, about, limit=bounds.cell, alone=bounds.alone)
    if wrong:
        progress.say(f"{label} {wrong}")
        _free_memory()
    progress.end(done(study, bounds.shard), cell.key)
    replan(study, bounds.shard, progress)
    return True


def replan(study: Study, shard: Shard | None, progress: Progress) -> None:
    """Tell the progress which cells there are: trials decide which a tuned strategy needs."""
    if study.tune.trials > 1:
        cells = study.planned(shard)
        missing = [cell.key for cell in cells if not study.store.settled(cell.key)]
        progress.replan(len(cells), missing)


def done(study: Study, shard: Shard | None = None) -> int:
    """How many of the wanted cells need no further work."""
    return sum(study.store.settled(cell.key) for cell in study.wanted(shard))


def opening(study: Study, cells: int, bounds: Bounds, seconds: float = 0.0) -> str:
    """What is said before anything is computed."""
    words = f"{cells} cells to compute in {study.folder}"
    words += f" (shard {bounds.shard})" if bounds.shard else ""
    words += f", {told(seconds)}" if seconds >= 1 else ""
    if bounds.left is not None:
        words += f"; no cell is started after {duration(bounds.left)}"
    return words


def mean_size(store: Store) -> float:
    """The mean size in bytes of the cells that are finished."""
    sizes = []
    for key in store.keys():  # noqa: SIM118 - not a dict
        files = read_json(store.path(key) / MANIFEST)["files"]
        sizes.append(sum(entry["bytes"] for entry in files.values()))
    return sum(sizes) / len(sizes) if sizes else 0.0


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
