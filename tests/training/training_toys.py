"""Small networks and decks of batches in float64, with mixed kinds and missing labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from plait.balancing.base import Balancer
from plait.balancing.equal import Equal
from plait.balancing.famo import Famo
from plait.balancing.graddrop import GradDrop
from plait.balancing.pcgrad import PCGrad
from plait.balancing.uncertainty import Uncertainty
from plait.batch import Batch
from plait.networks import Network, build_network, task_slices
from plait.sharing.hard import Hard
from plait.task import TaskSet
from plait.testing.toys import toy_batch, toy_inputs

KINDS = ("binary", "real", "binary", "classes", "counts")
BALANCERS: tuple[Callable[[], Balancer], ...] = (Equal, Uncertainty, Famo, PCGrad, GradDrop)


@dataclass
class Deck:
    """Batches as a pure function of the step; ``missing(step)`` names the tasks left out."""

    tasks: TaskSet
    steps: int = 6
    rows: int = 24
    missing: Callable[[int], Sequence[str]] = field(default=lambda _: ())
    dtype: torch.dtype = torch.float64

    def batch(self, step: int) -> Batch:
        batch = toy_batch(self.tasks, rows=self.rows, seed=step % self.steps, dtype=self.dtype)
        gone = set(self.missing(step))
        return batch.only(set(self.tasks.names) - gone) if gone else replace(batch)


def make_network(tasks: TaskSet, seed: int = 0, dropout: float = 0.0) -> Network:
    encoder = {"trunk": {"mlp": {"width": 8, "depth": 1, "dropout": dropout}}}
    return build_network(
        inputs=toy_inputs(), tasks=tasks, encoder=encoder, sharing=Hard(), seed=seed
    ).double()


def slices(network: Network) -> dict[str, torch.Tensor]:
    """Every parameter by name, those of banks by name and task."""
    found = {}
    for name, parameter in network.named_parameters():
        names = task_slices(parameter)
        if names is None:
            found[name] = parameter.detach().clone()
        else:
            for task, part in zip(names, parameter.detach(), strict=True):
                found[f"{name}/{task}"] = part.clone()
    return found


def furthest(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """The largest difference between tensors of the same names."""
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)
