"""The cells of a study spread over a Ray cluster, whose machines share the run's folder.

The driver submits each cell when its parts are there. Whatever becomes of a Ray worker, the
folder's leases decide who computes a cell and what is a result, as between any other processes.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.comparing.running import PAUSE, Bounds, compute_one, done, due, opening, replan
from plait.comparing.space import full, no_space

if TYPE_CHECKING:
    from plait.comparing.progress import Progress
    from plait.comparing.study import Study


class Cluster:
    """A Ray cluster: the one of ``RAY_ADDRESS``, or else one made of this machine.

    At most ``most`` cells at a time (0: as many as there are cores, or GPUs where there are any).
    Raises ``ImportError`` without the extra.
    """

    def __init__(self, study: Study, bounds: Bounds, most: int = 0) -> None:
        self.ray = _ray()
        self.study = study
        self.bounds = bounds
        self.most = most
        self.tasks: dict[Any, str] = {}

    def run(self, progress: Progress) -> None:
        """Wait until all cells are settled."""
        ray, started = self.ray, not self.ray.is_initialized()
        if started:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
        progress.say(opening(self.study, progress.total - progress.done, self.bounds) + " on Ray")
        task = ray.remote(max_retries=0, **self._each())(_compute)
        most = self.most or self._slots()
        try:
            while self._submit(task, most) or self.tasks:
                ready, _ = ray.wait(list(self.tasks), timeout=PAUSE) if self.tasks else ([], [])
                for found in ready:
                    self._receive(found, progress)
                if not self.tasks:
                    time.sleep(PAUSE)
                store = self.study.store
                names = {lease.key: owner.label for lease, owner in store.leases.running()}
                progress.follow(done(self.study, self.bounds.shard), names, store.settled)
                replan(self.study, self.bounds.shard, progress)
        finally:
            for waiting in self.tasks:
                ray.cancel(waiting)
            if started:
                ray.shutdown()

    def _submit(self, task: Any, most: int) -> bool:
        """Submit what can be computed now; whether anything is left to be computed at all."""
        store, left = self.study.store, False
        for cell in due(self.study, self.bounds.shard):
            if self.bounds.left == 0:
                return False
            left = True
            ready = all(store.finished(part.key) for part in cell.parts.values())
            last = store.leases.last(cell.key)
            free = last is None or store.leases.over(last)
            if ready and free and cell.key not in self.tasks.values() and len(self.tasks) < most:
                folder = str(self.study.folder.resolve())
                self.tasks[task.remote(folder, cell.key, self.bounds.cell)] = cell.key
        return left

    def _receive(self, found: Any, progress: Progress) -> None:
        """Hear what became of a task; a dead one's lease is ended, so that the cell goes on."""
        key = self.tasks.pop(found)
        errors = self.ray.exceptions
        try:
            for words in self.ray.get(found):
                progress.say(words)
        except errors.RayTaskError as error:
            if no_space(error):
                raise full(self.study.folder) from error
            raise ChildProcessError(f"a Ray worker could not work: {error.cause}") from error
        except errors.RayError as error:
            memory = isinstance(error, errors.OutOfMemoryError)
            last = self.study.store.leases.last(key)
            if last is not None and not last.ended:
                last.end("memory" if memory else "died")
            why = "out of memory" if memory else type(error).__name__
            progress.say(f"a Ray worker died ({why}) computing {self.study.label_of(key)}")

    def _each(self) -> dict[str, float]:
        """What a cell needs: a core, and a GPU where the cluster has them and the study uses it."""
        gpus = self.ray.cluster_resources().get("GPU", 0)
        uses = self.study.plans[0].training.device in ("auto", "cuda")
        return {"num_cpus": 1, "num_gpus": 1 if gpus and uses else 0}

    def _slots(self) -> int:
        there = self.ray.cluster_resources()
        return int(there["GPU"] if self._each()["num_gpus"] else there.get("CPU", 1))


def _compute(folder: str, key: str, limit: float | None) -> list[str]:
    """Compute one cell in a Ray worker; what a reader must know of it."""
    from plait.comparing.progress import Progress

    class Heard(Progress):
        def __init__(self) -> None:
            super().__init__()
            self.said: list[str] = []

        def say(self, words: str) -> None:
            self.said.append(words)

    study, heard = _opened(folder), Heard()
    cell = next(cell for cell in study.wanted() if cell.key == key)
    compute_one(study, cell, Bounds(cell=limit), heard)
    return heard.said


@cache
def _opened(folder: str) -> Study:
    """The study, its data loaded once for all cells that this worker computes."""
    from plait.comparing.study import Study

    return Study.open(Path(folder))


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        message = "--on ray needs the extra 'ray': pip install 'plait[ray]'"
        raise ImportError(message) from error
    return ray
