"""Every way to balance and to step: two processes with other tasks on each are one with all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing
from training_toys import Deck, furthest, make_network, slices

import plait
from plait.batch import Batch
from plait.method import methods, resolve
from plait.task import TaskSet
from plait.testing.toys import toy_tasks

OWN = ({"binary.0", "real.1", "counts.4"}, {"real.1", "binary.2", "classes.3"})  # by process
# In fewer steps than their defaults wait for; and the contrast of rows is inside a process.
GIVEN: dict[str, dict[str, Any]] = {
    "covariance_alignment": {"weights": {t.name: 1 + i for i, t in enumerate(toy_tasks())}},
    "loss_reweighting": {"warm_up": 1},
    "rep_mtl": {"alignment": 0.0},
    "rmtl": {"warm_up": 1, "critic_steps": 1, "rate": 0.1},
}


@dataclass
class Half:
    """The rows of one process, with labels of its own tasks; None: the rows of both."""

    tasks: TaskSet
    rank: int | None
    steps: int = 6

    def batch(self, step: int) -> Batch:
        batch = Deck(self.tasks).batch(step)
        labels = {}
        for key, found in batch.labels.items():
            names = self.tasks.groups[key].tasks
            mine = torch.tensor([[name in own for name in names] for own in OWN])
            kept = found.select(mine[found.rows % 2, found.task])
            labels[key] = replace(kept, group=kept.rows // 4)  # sessions over both processes
        batch = replace(batch, labels=labels)
        if self.rank is None:
            return batch
        return batch.rows(torch.arange(self.rank, len(batch), 2))


def trained(rank: int | None, family: str, name: str) -> dict[str, torch.Tensor]:
    tasks = toy_tasks()
    how = {family: resolve(family, {name: GIVEN[name]} if name in GIVEN else name)}
    procedure = how.get("procedure", resolve("procedure", "plain"))
    network = procedure.prepare(make_network(tasks))
    plait.fit(
        network,
        Half(tasks, rank),
        how.get("balancing", resolve("balancing", "pcgrad")),
        steps=3,
        procedure=procedure,
        validation=Half(tasks, rank),
    )
    return slices(network)


JOBS: dict[str, Callable[[int | None], dict[str, torch.Tensor]]] = {
    f"{family}.{entry.name}": partial(trained, family=family, name=entry.name)
    for family in ("balancing", "procedure")
    for entry in methods(family)
}


def _run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {}
    for name, job in JOBS.items():
        try:
            found[name] = job(rank)
        except Exception as error:
            found[name] = repr(error)
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(_run, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_are_as_one(both, name):
    one, two = both[0][name], both[1][name]
    assert isinstance(one, dict), f"{name}: {one}"
    assert furthest(one, two) == 0
    assert furthest(one, JOBS[name](None)) < 1e-8
