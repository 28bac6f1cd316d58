"""Two processes with other rows and other tasks on each are one process with all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn
from training_toys import Deck, furthest, make_network, slices

import plait
from plait.balancing.base import Balancer
from plait.balancing.equal import Equal
from plait.balancing.famo import Famo
from plait.balancing.graddrop import GradDrop
from plait.balancing.pcgrad import PCGrad
from plait.batch import Batch
from plait.task import TaskSet
from plait.testing.toys import toy_tasks
from plait.training import Engine, RowwiseAdamW
from plait.training.engine import Processes
from plait.training.procedures.task_sam import TaskSam

MAKERS: dict[str, Callable[[], Balancer]] = {
    "equal": Equal,
    "famo": Famo,
    "pcgrad": PCGrad,
    "graddrop": GradDrop,
}
OWN = ({"binary.0", "real.1", "counts.4"}, {"real.1", "binary.2", "classes.3"})  # by process


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
            labels[key] = found.select(mine[found.rows % 2, found.task])
        batch = replace(batch, labels=labels)
        if self.rank is None:
            return batch
        return batch.rows(torch.arange(self.rank, len(batch), 2))


def trained(rank: int | None, name: str, micro_batches: int = 1, **more: object) -> dict:
    tasks = toy_tasks()
    network = make_network(tasks)
    optimizer = RowwiseAdamW(network.parameters(), lr=0.01)
    plait.fit(
        network,
        Half(tasks, rank),
        MAKERS[name](),
        optimizer,
        steps=5,
        clip=1.0,
        micro_batches=micro_batches,
        **more,
    )
    return slices(network)


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh())
        self.heads = nn.ModuleDict({name: nn.Linear(4, 1) for name in "abc"})

    def forward(self, rows: torch.Tensor, names: str) -> dict[str, torch.Tensor]:
        return self.losses(rows, names)

    def losses(self, rows: torch.Tensor, names: str) -> dict[str, torch.Tensor]:
        h = self.trunk(rows)
        return {name: (self.heads[name](h) - ord(name) % 7).square().mean() for name in names}


def stepped(rank: int | None, sharded: bool = False) -> dict[str, torch.Tensor]:
    """Gradients of a loop of one's own: task a in both processes, b and c in one each."""
    model = Mine().double()
    rows = torch.randn(8, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if rank is None:
        one, two = model.losses(rows[:4], "ab"), model.losses(rows[4:], "ac")
        losses = {"a": (one["a"] + two["a"]) / 2, "b": one["b"], "c": two["c"]}
        engine = Engine()
    else:
        engine = Engine(group=dist.group.WORLD)
        if sharded:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh("cpu", (2,))
            for layer in (model.trunk[0], model.trunk[2]):
                fully_shard(layer, mesh=mesh)
            fully_shard(model.trunk, mesh=mesh)
        losses = model.losses(rows[4 * rank : 4 * rank + 4], ("ab", "ac")[rank])
    balancer = PCGrad()
    plait.backward(
        losses,
        model.trunk.parameters(),
        balancer,
        specific=model.heads.parameters(),
        engine=engine,
        step=0,
    )
    found = {name: p.grad for name, p in model.named_parameters()}
    return {n: g.full_tensor() if hasattr(g, "full_tensor") else g for n, g in found.items()}


def wrapped(rank: int | None) -> dict[str, torch.Tensor]:
    """The third step of a loop whose model is in ``DistributedDataParallel``."""
    model = Mine().double()
    replica = model if rank is None else nn.parallel.DistributedDataParallel(model)
    optimizer, balancer = torch.optim.SGD(model.parameters(), lr=0.1), PCGrad()
    for step in range(3):
        draw = torch.Generator().manual_seed(step)
        rows = torch.randn(8, 6, generator=draw, dtype=torch.float64)
        if rank is None:
            one, two = replica(rows[:4], "ab"), replica(rows[4:], "ac")
            losses = {"a": (one["a"] + two["a"]) / 2, "b": one["b"], "c": two["c"]}
            engine = Engine()
        else:
            engine = Engine(group=dist.group.WORLD)
            with replica.no_sync():
                losses = replica(rows[4 * rank : 4 * rank + 4], ("ab", "ac")[rank])
        optimizer.zero_grad()
        trunk, heads = model.trunk.parameters(), list(model.heads.parameters())
        plait.backward(losses, trunk, balancer, specific=heads, engine=engine, step=step)
        optimizer.step()
    return slices(model)


def ungrouped(rank: int | None) -> dict[str, torch.Tensor]:
    """Whether a loop that does not say that there are several processes is refused."""
    model, refused = Mine(), torch.zeros(())
    losses = model.losses(torch.ones(3, 6), "ab")
    try:
        plait.backward(losses, model.trunk.parameters(), PCGrad())
    except ValueError as error:
        refused += "Engine(group=" in str(error)
    return {"refused": refused if rank is not None else torch.ones(())}


JOBS: dict[str, Callable[[int | None], dict[str, torch.Tensor]]] = {
    **{f"fit {name}": partial(trained, name=name) for name in MAKERS},
    "fit pieces": partial(trained, name="pcgrad", micro_batches=2),
    "fit task_sam": partial(trained, name="pcgrad", procedure=TaskSam()),
    "own loop": stepped,
    "own loop, sharded": partial(stepped, sharded=True),
    "own loop, DDP": wrapped,
    "own loop, no group": ungrouped,
}


def _run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {name: job(rank) for name, job in JOBS.items()}
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(_run, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_are_as_one(both, name):
    alone = JOBS[name](None) if name != "own loop, sharded" else stepped(None)
    assert furthest(both[0][name], both[1][name]) == 0
    assert furthest(both[0][name], alone) < 1e-8
    assert not math.isnan(furthest(both[0][name], alone))


def test_processes_need_the_heads_in_one_order():
    with pytest.raises(ValueError, match="`specific`"):
        plait.backward(
            Mine().losses(torch.zeros(2, 6), "ab"),
            Mine().trunk.parameters(),
            Equal(),
            engine=Engine(group=Processes()),
        )
