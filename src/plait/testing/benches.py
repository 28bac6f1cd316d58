"""A toy network on a bench, for mergers that look at data, with the toy pool's tensors."""

from __future__ import annotations

import zlib
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn

from plait.merging.bench import Seen
from plait.merging.modules import ModuleBench
from plait.merging.pool import Array, Pool

WIDTH, CLASSES = 3, 3


class ToyTrunk(nn.Linear):
    """A linear layer; with a number, an empty tensor and a counter."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__(width, 5)
        self.scale = nn.Parameter(torch.ones(()))
        self.empty = nn.Parameter(torch.zeros(0, WIDTH))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))


class Toy(nn.Module):
    """tanh(W x + b) times a number, under the names that the toy pool's tensors have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.trunk = ToyTrunk(width)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, width] → [N, 5]."""
        found: Tensor = torch.tanh(self.trunk(inputs)) * self.trunk.scale
        return found


class ToyBench(ModuleBench):
    """A bench that counts how often the network was run."""

    ran: int = 0

    def _run(self, task: str, rows: Array) -> Seen:
        self.ran += 1
        return super()._run(task, rows)


def toy_bench(
    pool: Pool, losses: Collection[str] | None = None, *, rows: int = 12, width: int = WIDTH
) -> ToyBench:
    """The toy network with a head, rows and labels for every model of a pool of toys.

    A task's head and rows follow from its name. It has classes where the method takes those.
    """
    loss = "cross_entropy" if losses is None or "cross_entropy" in losses else min(losses)
    outputs = CLASSES if loss == "cross_entropy" else 1
    kind = torch.float64 if pool.working == np.float64 else torch.float32
    with torch.random.fork_rng():  # whatever modules draw for their start is written over
        module = Toy(width).to(kind)
        heads = {name: nn.Linear(5, outputs).to(kind) for name in pool.names}
    inputs, labels = {}, {}
    for name, head in heads.items():
        draw = np.random.default_rng(zlib.crc32(name.encode()))
        for tensor in head.parameters():
            tensor.data = torch.from_numpy(draw.normal(size=tensor.shape)).to(kind)
        inputs[name] = torch.from_numpy(draw.normal(size=(rows, width))).to(kind)
        labels[name] = torch.from_numpy(draw.integers(0, outputs, size=rows))
    return ToyBench(module, heads, inputs, labels, losses=loss)
