"""Units of experts in a hierarchy: gates on what they read, norms on what they give.

A unit is a task, a category of tasks, or what is shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.method import did_you_mean
from plait.networks.base import Bank, Features, Name, ones, uniform
from plait.networks.routing import routed_linear
from plait.sharing.base import Experts, Gates, Kept
from plait.task import TaskSet

MOMENTUM = 0.1  # of the running statistics of a norm
EPSILON = 1e-5


def categories_of(
    tasks: TaskSet, given: Mapping[str, Sequence[str]] | None
) -> dict[str, list[int]]:
    """Category → positions of its tasks; by default a category for each kind of task.

    Raises ``ValueError`` unless every task is in exactly one category, and for a category that has
    a task's name.
    """
    if given is None:
        found: dict[str, list[int]] = {}
        for position, task in enumerate(tasks):
            found.setdefault(f"{task.kind} tasks", []).append(position)
        return found
    where: dict[str, str] = {}
    for category, names in given.items():
        if category in tasks.position:
            raise ValueError(f"categories: {category!r} is a task; name the category otherwise")
        for name in names:
            if name not in tasks.position:
                hint = did_you_mean(name, tasks.names)
                raise ValueError(f"categories: no task {name!r} ({category}){hint}")
            if name in where:
                raise ValueError(f"categories: task {name!r} is in {where[name]} and in {category}")
            where[name] = category
    for name in tasks.names:
        if name not in where:
            raise ValueError(f"categories: task {name!r} is in none of them")
    return {c: sorted(tasks.position[name] for name in some) for c, some in given.items() if some}


class Sizes(Protocol):
    """The settings that units are made by."""

    @property
    def width(self) -> int:
        """Of what an expert gives."""

    @property
    def depth(self) -> int:
        """An expert's layers."""

    @property
    def shared(self) -> int:
        """The experts of the shared unit, and of each category."""

    @property
    def rank(self) -> int:
        """Of a feature gate."""


class FeatureGates(nn.Module):
    """What each unit reads: v ⊙ 2σ(v B A), with B [U, d, rank] and A [U, rank, d]."""

    def __init__(self, bank: Bank, inside: int, rank: int) -> None:
        super().__init__()
        self.bank = bank
        bank.add("down", inside, rank, start=uniform(inside))
        bank.add("up", rank, inside, start=uniform(rank))

    def forward(self, v: Tensor, kept: Kept = None) -> Tensor:
        """[B, d], or [U, B, d] by unit → [U, B, d], of the ``kept`` units only."""
        down, up = self.bank.stack("down"), self.bank.stack("up")
        if kept is not None:
            rows = torch.tensor(kept, device=v.device)
            down, up = down.index_select(0, rows), up.index_select(0, rows)
        return v * (2 * torch.matmul(torch.matmul(v, down), up).sigmoid())


class Norm(nn.Module):
    """Batch norm and Swish on what experts give, [B, E, width], each channel on its own.

    In training by the rows at hand, which move the running statistics that evaluation uses. One row
    has no spread: alone it is normalised by the running statistics too.
    """

    def __init__(self, bank: Bank, width: int) -> None:
        super().__init__()
        self.bank = bank
        bank.add("scale", width, start=ones)
        bank.add("shift", width)
        bank.track("mean", width, value=0.0)
        bank.track("variance", width, value=1.0)

    def forward(self, h: Tensor, which: Sequence[int] | None = None) -> Tensor:
        """``which`` experts they are, None for all."""
        names = ("mean", "variance", "scale", "shift")
        mean, variance, scale, shift = (self.bank.stack(name) for name in names)
        rows = None if which is None else torch.tensor(which, device=h.device)
        if rows is not None:
            mean, variance, scale, shift = (
                each.index_select(0, rows) for each in (mean, variance, scale, shift)
            )
        moving = self.training and h.shape[0] > 1
        flat = F.batch_norm(
            h.flatten(1), mean.flatten(), variance.flatten(), scale.flatten(), shift.flatten(),
            moving, MOMENTUM, EPSILON,
        )  # fmt: skip
        if moving and rows is not None:
            for name, value in (("mean", mean), ("variance", variance)):
                self.bank.get_buffer(name).index_copy_(0, rows, value)
        return F.silu(flat).view(h.shape)


class SelfGates(nn.Module):
    """How much of its own experts a unit adds: softmax over several, a sigmoid for a sole one.

    One linear map for each of the ``each`` experts of a unit: U·each·(d+1) parameters.
    """

    def __init__(self, bank: Bank, each: int, inside: int) -> None:
        super().__init__()
        self.bank = bank
        bank.add("weight", each, inside, start=uniform(inside))
        bank.add("bias", each, start=uniform(inside))

    def forward(self, x: Tensor) -> Tensor:
        """[U, B, d] → [B, U, each]."""
        weight, bias = self.bank.stack("weight"), self.bank.stack("bias")
        logits = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
        return _weights(logits.transpose(0, 1))

    def of(self, features: Features, task: Tensor) -> Tensor:
        """Those of records, of units ``task`` [N], ascending: [N, each]."""
        weight, bias = self.bank.stack("weight"), self.bank.stack("bias")
        return _weights(routed_linear(features, task, weight, bias))


def _weights(logits: Tensor) -> Tensor:
    return logits.softmax(-1) if logits.shape[-1] > 1 else logits.sigmoid()


class Meta(nn.Module):
    """The first level: a representation of each category and a shared one, [B, d] → [C + 1, B, w].

    A category reads its own and the shared experts, the shared unit reads all.
    """

    def __init__(
        self, names: Sequence[Name], trainers: Sequence[frozenset[str]], inside: int, sizes: Sizes
    ) -> None:
        super().__init__()
        each, count = sizes.shared, len(names)
        units = [unit for unit in range(count) for _ in range(each)]
        owners = [names[unit] for unit in units]
        self.features = FeatureGates(Bank(names), inside, sizes.rank)
        self.experts = Experts(owners, inside, sizes.width, sizes.depth, units=units, linear=True)
        self.norm = Norm(Bank(owners), sizes.width)
        own = [[e for e, u in enumerate(units) if u == unit] for unit in range(count)]
        reads = [[*some, *own[-1]] for some in own[:-1]]
        self.gates = Gates(
            names[:-1], reads, owners, inside, specific=False, trainers=trainers[:-1]
        )
        self.shared_gate = Gates([None], [range(len(units))], owners, inside, specific=False)
        self.selves = SelfGates(Bank(names, trainers=trainers), each, inside)

    def forward(self, v: Tensor) -> Tensor:
        """The categories' states, then the shared one."""
        x = self.features(v)
        outputs = self.norm(self.experts(x))
        gates = [self.gates(Features(x[:-1])), self.shared_gate(Features(x[-1]))]
        mixed = torch.bmm(torch.cat(gates, 1), outputs)
        weights = self.selves(x)
        own = outputs.view(*weights.shape, -1)
        found: Tensor = mixed + (weights.unsqueeze(3) * own).sum(2)
        return found.transpose(0, 1)
