"""Parts that several sharing architectures are made of: stacked experts, and their mixtures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.networks.routing import followed

DENSE = 4  # mixing for all pairs beats gathering up to this many pairs for each one asked


class Experts(nn.Module):
    """E networks of one shape on one input: [B, d] → [B, E, width], without a loop.

    Each is ``depth`` linear layers with ReLU. The first layer of all is one product; the later ones
    are batched. Parameters: E·((d+1)·width + (depth−1)·(width+1)·width).
    """

    def __init__(self, experts: int, inside: int, width: int, depth: int = 1) -> None:
        super().__init__()
        if min(experts, width, depth) < 1:
            raise ValueError("experts, width and depth must be at least 1")
        sizes = [inside] + [width] * (depth - 1)
        # Each expert starts like nn.Linear; a rule applied to the stack would take its wrong axis.
        self.weights = nn.ParameterList(_uniform(size, experts, width, size) for size in sizes)
        self.biases = nn.ParameterList(_uniform(size, experts, width) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, d] → [B, E, width]."""
        first, *later = zip(self.weights, self.biases, strict=True)
        flat = F.linear(x, first[0].flatten(0, 1), first[1].flatten())
        h = flat.relu().view(len(x), *first[1].shape)
        for weight, bias in later:
            mapped = torch.baddbmm(bias.unsqueeze(1), h.transpose(0, 1), weight.transpose(1, 2))
            h = mapped.relu().transpose(0, 1)
        return h


def _uniform(fan_in: int, *shape: int) -> nn.Parameter:
    bound = max(fan_in, 1) ** -0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


def mix(outputs: Tensor, gates: Tensor, rows: Tensor, task: Tensor) -> Tensor:
    """Σ_e gates[n, e] · outputs[rows[n], e] for every record: [N, width].

    ``outputs`` [B, E, width]; ``gates`` [N, E]; ``rows`` and ``task`` [N], task ascending. Where
    most rows are asked by most present tasks, one batched product per row serves all its tasks.
    """
    # Counting the present tasks would wait for the device.
    if followed() or task.is_cuda or len(task) == 0:
        return _mix_gathered(outputs, gates, rows)
    present, local = torch.unique_consecutive(task, return_inverse=True)
    pairs = len(outputs) * len(present)
    if pairs > DENSE * len(rows):
        return _mix_gathered(outputs, gates, rows)
    place = rows * len(present) + local
    grid = gates.new_zeros(pairs, gates.shape[1]).index_copy(0, place, gates)
    mixed = torch.bmm(grid.view(len(outputs), len(present), -1), outputs)
    return mixed.flatten(0, 1).index_select(0, place)


def _mix_gathered(outputs: Tensor, gates: Tensor, rows: Tensor) -> Tensor:
    return torch.bmm(gates.unsqueeze(1), outputs.index_select(0, rows)).squeeze(1)


@dataclass(frozen=True)
class GateUse:
    """How tasks use experts: mean gates ``load`` [T, E] and mean ``entropy`` [T] in nats.

    Tasks without a record have NaN. Entropy near 0 for every task tells that gates collapsed.
    """

    load: Tensor
    entropy: Tensor


def gate_use(gates: Tensor, task: Tensor, tasks: int) -> GateUse:
    """Summarise gates [N, E] of records with the given tasks [N]."""
    counts = torch.bincount(task, minlength=tasks).unsqueeze(1)
    zero = gates.new_zeros(tasks, gates.shape[1])
    load = zero.index_add(0, task, gates) / counts
    entropy = zero.index_add(0, task, torch.special.entr(gates)) / counts
    return GateUse(load, entropy.sum(1))
