"""Per-task losses of a batch, each a mean over the task's labels, exact however the batch is cut.

The number of labels of every task is known from the whole batch before any forward, so the losses
of micro-batches, each divided by it, add up to the loss of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import compress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plait.batch import Batch
from plait.losses import loss_of
from plait.task import TaskSet

if TYPE_CHECKING:
    from plait.networks import Network, Outputs


@dataclass(frozen=True)
class Losses:
    """One scalar for each task present.

    ``value`` [t] has the graph, ``units`` [t] are the label weights behind each. ``preferences``
    [t] and ``gaussian`` [t] (squared error) are None for one and for no.
    """

    tasks: tuple[str, ...]
    value: Tensor
    units: Tensor
    preferences: Tensor | None = None
    gaussian: Tensor | None = None


class Layout:
    """Where each task stands when the head groups are laid one after another."""

    def __init__(self, tasks: TaskSet, device: torch.device | str = "cpu") -> None:
        groups = tasks.groups
        self.tasks = tasks
        self.names = tuple(name for group in groups.values() for name in group.tasks)
        self.size = {key: len(group.tasks) for key, group in groups.items()}
        ends = torch.tensor([0, *self.size.values()]).cumsum(0).tolist()
        self.offset = dict(zip(groups, ends[:-1], strict=True))
        self.loss = {key: loss_of(group.loss, group.kind) for key, group in groups.items()}
        gaussian = [self.loss[tasks[name].group].gaussian for name in self.names]
        self.gaussian = torch.tensor(gaussian, device=device)
        preferences = [tasks[name].preference for name in self.names]
        self.preferences = torch.tensor(preferences, device=device)
        self.device = device

    def units(
        self,
        batch: Batch,
        without: Collection[str] = (),
        total_of: Callable[[Tensor], Tensor] | None = None,
    ) -> Units:
        """The label weights of every task present; call it before the batch leaves the CPU.

        ``total_of`` adds those of other processes, whose rows belong to the same batch.
        """
        found = []
        for key, size in self.size.items():
            labels = batch.labels.get(key)
            if labels is None:
                found.append(torch.zeros(size))
            elif (weight := labels.units) is None:
                found.append(batch.units[key])
            else:
                found.append(torch.bincount(labels.task, weight, minlength=size))
        total = torch.cat(found) if len(found) > 1 else found[0]
        total = total if total_of is None else total_of(total)
        there = total > 0
        if without:
            there &= torch.tensor([name not in without for name in self.names])
        if there.all():
            return Units(self, self.names, total.to(self.device), None)
        names = tuple(compress(self.names, there.tolist()))
        places = there.nonzero()[:, 0].to(self.device)
        return Units(self, names, total.to(self.device).index_select(0, places), places)

    def spread(self, units: Units) -> Tensor:
        """The label weights laid out over all tasks, [T]; zero for absent ones."""
        if units.places is None:
            return units.total
        return units.total.new_zeros(len(self.names)).index_copy(0, units.places, units.total)


@dataclass(frozen=True)
class Units:
    """The tasks present in a batch, their label weights [t] and places [t] (None: all of them)."""

    layout: Layout
    tasks: tuple[str, ...]
    total: Tensor
    places: Tensor | None

    def pick(self, whole: Tensor) -> Tensor:
        """The entries of the tasks present, from a tensor with one for every task."""
        return whole if self.places is None else whole.index_select(0, self.places)


class Alignment:
    """Renumbers a batch's records for a network whose tasks are others, or in another order.

    Records of tasks that the network lacks are left out. Raises ``ValueError`` where the two agree
    on a task's name and not on its kind.
    """

    def __init__(self, source: TaskSet, target: TaskSet) -> None:
        self.source = source  # kept, so that its identity stays its own
        self.target = target
        self.same = source == target
        for task in source:
            if task.name in target.position and target[task.name].group != task.group:
                raise ValueError(
                    f"task {task.name!r} is {task.group} in the data and "
                    f"{target[task.name].group} in the network"
                )
        self.place = {
            key: torch.tensor([target.groups[key].position.get(n, -1) for n in group.tasks])
            for key in target.groups  # the network's order, whichever the data's is
            if (group := source.groups.get(key)) is not None
        }

    def __call__(self, batch: Batch) -> Batch:
        """The batch, renumbered."""
        if self.same:
            return batch
        labels = {}
        for key, places in self.place.items():
            found = batch.labels.get(key)
            if found is None:
                continue
            task = places.to(found.task.device)[found.task]
            order = torch.argsort(task, stable=True)
            order = order[task[order] >= 0]
            if len(order):
                labels[key] = replace(found.select(order), task=task[order])
        return replace(batch, labels=labels, tasks=self.target)


def losses_of(network: Network, batch: Batch, units: Units | None = None) -> tuple[Losses, Outputs]:
    """Run the network on a batch and take each present task's loss: Σ weight·loss / Σ weight.

    For a micro-batch, ``units`` are those of the whole batch (``Layout(tasks).units(whole)``): the
    losses of the pieces then add up. A task whose labels all weigh nothing is absent.
    """
    if batch.tasks is not network.tasks:
        batch = Alignment(batch.tasks, network.tasks)(batch)
    if units is None:
        units = Layout(batch.tasks, batch.ids.device).units(batch)
    outputs = network(batch.parts, batch.labels)
    return total(batch, outputs, units), outputs


def total(batch: Batch, outputs: Outputs, units: Units) -> Losses:
    """The losses of outputs that are at hand."""
    layout = units.layout
    return Losses(
        units.tasks,
        units.pick(sums_of(batch, outputs, layout)) / units.total,
        units.total,
        units.pick(layout.preferences),
        units.pick(layout.gaussian),
    )


def sums_of(batch: Batch, outputs: Outputs, layout: Layout) -> Tensor:
    """Σ weight·loss of every task of the layout, [T]; zero for absent ones."""
    value, place = records_of(batch, outputs, layout)
    return value.new_zeros(len(layout.names)).index_add(0, place, value)


def records_of(batch: Batch, outputs: Outputs, layout: Layout) -> tuple[Tensor, Tensor]:
    """weight·loss [N] of every record, and the place [N] of its task in the layout."""
    values, places = [], []
    for key, labels in batch.labels.items():
        raw = outputs.raw[key]
        if raw.dtype in (torch.bfloat16, torch.float16):
            raw = raw.float()
        value = layout.loss[key].per_record(raw, labels)
        if labels.weight is not None:
            value = value * labels.weight.to(value.dtype)
        values.append(value)
        offset = layout.offset[key]
        places.append(labels.task + offset if offset else labels.task)
    if not values:  # another process has the labels
        return torch.zeros(0, device=layout.device), torch.zeros(0, device=layout.device).long()
    value, place = (
        (values[0], places[0]) if len(values) == 1 else (torch.cat(values), torch.cat(places))
    )
    return value, place
