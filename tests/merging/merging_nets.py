"""A small network and its experts, for the tests of mergers that look at data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from plait.merging.modules import ModuleBench
from plait.merging.pool import Pool

TASKS = ("x", "y", "z")
ROWS, WIDTH, CLASSES = 24, 4, 3


class Net(nn.Module):
    """Two linear layers around tanh, and a scale for the features."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 6)
        self.second = nn.Linear(6, 5, bias=False)
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., WIDTH] → [..., 5]."""
        return self.second(torch.tanh(self.first(inputs))) * self.scale


def drawn(seed: int, *shape: int) -> Tensor:
    """Normal numbers in float64."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def net(seed: int = 0) -> Net:
    """A network in float64 whose weights follow from the seed."""
    with torch.random.fork_rng():
        made = Net().double()
    for number, tensor in enumerate(made.parameters()):
        tensor.data = drawn(100 * seed + number, *tensor.shape)
    return made


def state(module: nn.Module) -> dict[str, np.ndarray]:
    """A copy of a module's tensors as arrays."""
    return {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}


def net_pool(tasks: tuple[str, ...] = TASKS, spread: float = 0.3) -> Pool:
    """A base, and an expert for each task that lies a small step away."""
    base = state(net())
    experts = {}
    for number, task in enumerate(tasks, 1):
        other = state(net(number))
        experts[task] = {name: value + spread * other[name] for name, value in base.items()}
    return Pool(experts, base)


def net_bench(tasks: tuple[str, ...] = TASKS, rows: int = ROWS, **settings: object) -> ModuleBench:
    """The network with heads, rows and class labels for every task."""
    heads: dict[str, nn.Module] = {}
    for number, task in enumerate(tasks):
        with torch.random.fork_rng():
            heads[task] = nn.Linear(5, CLASSES).double()
        for place, tensor in enumerate(heads[task].parameters()):
            tensor.data = drawn(1000 + 10 * number + place, *tensor.shape)
    inputs = {task: drawn(2000 + number, rows, WIDTH) for number, task in enumerate(tasks)}
    labels = {
        task: torch.from_numpy(np.random.default_rng(3000 + n).integers(0, CLASSES, rows))
        for n, task in enumerate(tasks)
    }
    return ModuleBench(net(), heads, inputs, labels, **settings)  # type: ignore[arg-type]
