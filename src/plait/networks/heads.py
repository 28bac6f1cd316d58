"""One linear head per task, stacked by head group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.batch import Labels, Records
from plait.kinds import KINDS
from plait.method import did_you_mean
from plait.networks.base import Bank, Features, TaskBank, escape, uniform
from plait.networks.routing import routed_linear
from plait.task import HeadGroup, Task, TaskSet


class Heads(nn.Module):
    """A bank for each head group: weight [T, outputs, width] and bias [T, outputs].

    Those of pixels have a convolution before: mix [T, width, width, 3, 3] and mix_bias [T, width].

    ``priors`` (see :func:`prior_of`) set the biases so that training starts from the tasks' base
    rates. ``trainers`` are the tasks that train a task's head, where others than itself do. Raises
    ``KeyError`` for the prior of an unknown task.
    """

    def __init__(
        self,
        tasks: TaskSet,
        width: int,
        priors: Mapping[str, Tensor] | None = None,
        trainers: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        super().__init__()
        self.tasks = tasks
        self.width = width
        self.banks = nn.ModuleDict()
        for key, group in tasks.groups.items():
            who = [(trainers or {}).get(name, frozenset({name})) for name in group.tasks]
            self.banks[escape(key)] = self._fresh(group, who)
        self.start_at(priors or {})

    def _fresh(self, group: HeadGroup, who: Sequence[frozenset[str]]) -> Bank:
        alone = all(len(some) == 1 for some in who)
        bank = TaskBank(group.tasks) if alone else Bank(group.tasks, trainers=who)
        bank.add("weight", group.outputs, self.width, start=uniform(self.width))
        bank.add("bias", group.outputs)
        if group.place == "pixel":
            bank.add("mix", self.width, self.width, 3, 3, start=uniform(9 * self.width))
            bank.add("mix_bias", self.width)
        return bank

    def seat(self, tasks: TaskSet, seed: int, place: str) -> None:
        """Serve these tasks: heads that are known stay as they are, new ones start by the seed.

        ``place`` is the path of the heads in their network.
        """
        like = next(self.parameters())
        before, self.banks, self.tasks = self.banks, nn.ModuleDict(), tasks
        for group, found in tasks.groups.items():
            name = escape(group)
            known = name in before
            who = [frozenset({task}) for task in found.tasks]
            bank = before[name] if known else self._fresh(found, who).to(like)
            assert isinstance(bank, Bank)
            if known:
                bank.select(found.tasks, seed, f"{place}.banks.{name}")
            else:
                bank.reset(seed, f"{place}.banks.{name}")
            self.banks[name] = bank

    def forward(
        self, features: Mapping[str, Features], asked: Mapping[str, Records]
    ) -> dict[str, Tensor]:
        """(features, records) by head group → raw outputs [N, outputs] by head group."""
        raw = {}
        for key, records in asked.items():
            bank = self.bank(key)
            weight, bias = bank.stack("weight"), bank.stack("bias")
            raw[key] = routed_linear(features[key], records.task, weight, bias)
        return raw

    def decode(self, group: str, maps: Tensor, task: Tensor, size: Sequence[int]) -> Tensor:
        """Feature maps [N, h, w, width] of records → raw outputs [N, *size, outputs] of a group.

        A head that labels pixels looks around each place by a 3×3 convolution of its own, with
        ReLU, then maps it linearly; what lies between places is taken in a straight line.
        """
        bank = self.bank(group)
        mix, mix_bias = bank.stack("mix"), bank.stack("mix_bias")
        weight, bias = bank.stack("weight"), bank.stack("bias")
        found = []
        present, counts = torch.unique_consecutive(task, return_counts=True)
        pieces = torch.split(maps.permute(0, 3, 1, 2), counts.tolist())
        for one, piece in zip(present.tolist(), pieces, strict=True):
            around = F.conv2d(piece, mix[one], mix_bias[one], padding=1).relu()
            flat = F.conv2d(around, weight[one][:, :, None, None], bias[one])
            whole = F.interpolate(flat, size=tuple(size), mode="bilinear", align_corners=False)
            found.append(whole.permute(0, 2, 3, 1))
        return torch.cat(found)

    def bank(self, group: str) -> Bank:
        """The bank of a head group."""
        found = self.banks[escape(group)]
        assert isinstance(found, Bank)
        return found

    @torch.no_grad()
    def start_at(self, priors: Mapping[str, Tensor]) -> None:
        """Set the biases of the named tasks from their priors."""
        for name, prior in priors.items():
            if name not in self.tasks.position:
                hint = did_you_mean(name, self.tasks.names)
                raise KeyError(f"a prior for no task: {name!r}{hint}")
            task = self.tasks[name]
            bias = self.banks[escape(task.group)].get_parameter("bias")
            position = self.tasks.groups[task.group].position[name]
            bias[position] = prior_bias(task, prior).to(bias)


def prior_of(task: Task, labels: Labels) -> Tensor:
    """What a task's labels say before any input: class shares [C], a mean [1] or a rate [1].

    Half a label is added to every class, and to a rate, so that nothing is impossible.
    """
    target = labels.target.double()
    weight = torch.ones(len(target)).double() if labels.weight is None else labels.weight.double()
    if labels.valid is not None:
        weight = weight[labels.valid.nonzero()[:, 0]]
        target = target[labels.valid]
    return KINDS[task.kind].prior(target, weight, len(task.classes))


def prior_bias(task: Task, prior: Tensor) -> Tensor:
    """The raw outputs that predict the prior: (cumulative) log-odds, log shares, a log rate."""
    return KINDS[task.kind].bias(prior)


class Labelled(Protocol):
    """A source of labels by task and split, as ``plait.data.Dataset`` is."""

    @property
    def tasks(self) -> TaskSet:
        """The tasks."""

    def labels(self, task: str, split: Any) -> Labels:
        """One task's labels in a split."""


def priors_of(dataset: Labelled, split: str = "train") -> dict[str, Tensor]:
    """The prior of every task that has labels in the split."""
    found = {task.name: (task, dataset.labels(task.name, split)) for task in dataset.tasks}
    return {name: prior_of(task, labels) for name, (task, labels) in found.items() if len(labels)}
