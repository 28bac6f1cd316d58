"""Parts that several sharing architectures are made of: stacked experts, gates, and mixtures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.batch import Records
from plait.data.seeding import key
from plait.method import did_you_mean
from plait.networks.base import Bank, Features, Name, TaskBank, uniform
from plait.networks.routing import followed, routed_linear
from plait.task import TaskSet

DENSE = 4  # mixing for all pairs beats gathering up to this many pairs for each one asked

Kept = Sequence[int] | None  # the units that are computed, ascending; None for all of them


class Experts(nn.Module):
    """E networks of one shape without a loop: [B, d], or [U, B, d] by unit → [B, E, width].

    Each is ``depth`` linear layers with ReLU, none after the last where ``linear``. ``owners`` [E]
    are whose they are (None: no task's), ``units`` [E], ascending, the unit whose state each reads
    where every unit has its own; ``specific`` experts are trained by their owners only, others by
    ``trainers`` [E] (None: by all). Parameters: E·((d+1)·width + (depth−1)·(width+1)·width).
    """

    def __init__(
        self,
        owners: int | Sequence[Name],
        inside: int,
        width: int,
        depth: int = 1,
        *,
        units: Sequence[int] = (),
        specific: bool = False,
        linear: bool = False,
        trainers: Sequence[frozenset[str]] | None = None,
    ) -> None:
        super().__init__()
        self.linear = linear
        names = [None] * owners if isinstance(owners, int) else list(owners)
        if min(len(names), width, depth) < 1:
            raise ValueError("experts, width and depth must be at least 1")
        self.units = tuple(units or range(len(names)))
        self.layers = nn.ModuleList()
        for _ in range(depth):
            bank = Bank(names, trainers=trainers)
            if specific:
                bank = TaskBank([str(name) for name in names])
            bank.add("weight", width, inside, start=uniform(inside))
            bank.add("bias", width, start=uniform(inside))
            self.layers.append(bank)
            inside = width

    def forward(self, x: Tensor, kept: Kept = None) -> Tensor:
        """[B, E, width]; of the ``kept`` units only, where x [kept, B, d] has no other."""
        which = None if kept is None else self.columns(kept)
        units = self.units
        if which is not None and kept is not None:
            place = {unit: i for i, unit in enumerate(kept)}
            units = tuple(place[units[e]] for e in which)
        layers = [_chosen(cast("Bank", bank), which) for bank in self.layers]
        h = _first(x, *layers[0], units)
        for weight, bias in layers[1:]:
            h = h.relu().transpose(0, 1)
            h = torch.baddbmm(bias.unsqueeze(1), h, weight.transpose(1, 2)).transpose(0, 1)
        return h if self.linear else h.relu()

    def columns(self, kept: Sequence[int]) -> list[int]:
        """The experts of some units."""
        return [e for e, unit in enumerate(self.units) if unit in kept]


def _chosen(bank: Bank, which: list[int] | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer, of some experts only."""
    weight, bias = bank.stack("weight"), bank.stack("bias")
    if which is None:
        return weight, bias
    rows = torch.tensor(which, device=weight.device)
    return weight.index_select(0, rows), bias.index_select(0, rows)


def _first(x: Tensor, weight: Tensor, bias: Tensor, units: Sequence[int]) -> Tensor:
    """The first layer of all experts without ReLU: one product, or a batched one over units."""
    experts, width = bias.shape
    if x.ndim == 2:
        flat = F.linear(x, weight.flatten(0, 1), bias.flatten())
        return flat.view(-1, experts, width)
    each = experts // len(x)
    if units == tuple(unit for unit in range(len(x)) for _ in range(each)):
        # The experts of a unit read the same rows: side by side they are one wider layer.
        weight, bias = weight.view(len(x), each * width, -1), bias.view(len(x), 1, each * width)
        h = torch.baddbmm(bias, x, weight.transpose(1, 2))
        return h.transpose(0, 1).reshape(x.shape[1], experts, width)
    own = x.index_select(0, torch.tensor(units, device=x.device))
    return torch.baddbmm(bias.unsqueeze(1), own, weight.transpose(1, 2)).transpose(0, 1)


class Mixture(nn.Module):
    """What gives weights [N, E] to experts: ``forward(features, task)`` for records of tasks [N].

    ``readers`` [R] are whose weights they are, ``about`` [E] whose the experts; ``reads`` [R, most]
    the numbers of the experts that each may read, E where it may read fewer.
    """

    reads: Tensor

    def __init__(
        self, readers: Sequence[Name], reads: Sequence[Sequence[int]], about: Sequence[Name]
    ) -> None:
        super().__init__()
        self.readers, self.about, self.experts = tuple(readers), tuple(about), len(about)
        most = max(map(len, reads))
        columns = [[*own, *[self.experts] * (most - len(own))] for own in reads]
        self.register_buffer("reads", torch.tensor(columns), persistent=False)


class Gates(Mixture):
    """A softmax over the experts that a reader may read: [N, E], or [B, R, E] for all readers.

    ``reads`` [R] are the numbers of those experts, ``about`` [E] whose the experts are; all others
    get exactly 0. One linear map for each reader and expert it reads: (d+1)·Σ_r |reads_r|
    parameters, d·Σ_r |reads_r| without ``bias``. ``specific`` gates are trained by their readers
    only, others by ``trainers`` [R] (None: by all).
    """

    place: Tensor

    def __init__(
        self,
        readers: Sequence[Name],
        reads: Sequence[Sequence[int]],
        about: Sequence[Name],
        inside: int,
        *,
        bias: bool = True,
        specific: bool = True,
        trainers: Sequence[frozenset[str]] | None = None,
    ) -> None:
        super().__init__(readers, reads, about)
        self.biased = bias
        names = [name for name, own in zip(readers, reads, strict=True) for _ in own]
        whose = [about[expert] for own in reads for expert in own]
        who = None
        if trainers is not None:
            who = [some for some, own in zip(trainers, reads, strict=True) for _ in own]
        self.bank = TaskBank(list(map(str, names)), whose) if specific else Bank(names, whose, who)
        self.bank.add("weight", inside, start=uniform(inside))
        if bias:
            self.bank.add("bias", start=uniform(inside))
        most = max(map(len, reads))
        self.even = min(map(len, reads)) == most
        self.full = list(chain(*reads)) == list(range(self.experts)) * len(reads)
        place, number = [], 0
        for own in reads:
            place.append([*range(number, number + len(own)), *[0] * (most - len(own))])
            number += len(own)
        self.register_buffer("place", torch.tensor(place), persistent=False)

    def forward(self, features: Features, task: Tensor | None = None, kept: Kept = None) -> Tensor:
        """The gates [N, E] of records, by their readers ``task`` [N], ascending.

        Without ``task`` those of all (or the kept) readers on all rows, [B, R, E]: the values are
        [B, d], or [R, B, d] where each reader has a state of its own.
        """
        weight, bias = self._maps()
        if task is not None:
            return self._spread(routed_linear(features, task, weight, bias), self.reads[task])
        x, reads = features.values, self.reads
        if kept is not None:
            rows = torch.tensor(kept, device=weight.device)
            weight, bias, reads = weight[rows], None if bias is None else bias[rows], reads[rows]
        if x.ndim == 2:
            flat = F.linear(x, weight.flatten(0, 1), None if bias is None else bias.flatten())
            return self._spread(flat.view(-1, *weight.shape[:2]), reads)
        across = weight.transpose(1, 2)
        found = torch.bmm(x, across) if bias is None else torch.baddbmm(bias[:, None], x, across)
        return self._spread(found.transpose(0, 1), reads)

    def _maps(self) -> tuple[Tensor, Tensor | None]:
        """[R, most, d] and [R, most]: the maps of each reader, padded to the most it may read."""
        weight = self.bank.stack("weight")
        bias = self.bank.stack("bias") if self.biased else None
        if self.even:
            shape = self.place.shape
            return weight.view(*shape, -1), None if bias is None else bias.view(shape)
        return weight[self.place], None if bias is None else bias[self.place]

    def _spread(self, logits: Tensor, reads: Tensor) -> Tensor:
        """Logits over what is read [..., most] → gates over all experts [..., E]."""
        if not self.even:
            logits = logits.masked_fill(reads == self.experts, -torch.inf)
        gates = logits.softmax(-1)
        if self.full:
            return gates
        room = gates.new_zeros(*gates.shape[:-1], self.experts + 1)
        return room.scatter(-1, reads.expand_as(gates), gates)[..., : self.experts]


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


def present(task: Sequence[Tensor], tasks: int) -> Kept:
    """The tasks that have a record; None where all (or none) have, or looking would cost too much.

    ``task``: the records' positions in the set, by head group.
    """
    if followed() or any(found.is_cuda for found in task):
        return None
    found = sorted({t for each in task for t in torch.unique_consecutive(each).tolist()})
    return None if len(found) in (0, tasks) else found


def own_rows(state: Tensor, kept: Kept, records: Records, task: Tensor) -> Features:
    """What records read of their tasks' states [U, B, d], or of one [B, d] that all tasks have.

    ``task`` [N]: the records' tasks as positions in the set; ``kept``: whose states are there.
    """
    if state.ndim == 2:
        return Features(state, records.rows)
    if kept is not None:
        place = torch.zeros(max(kept) + 1, dtype=torch.long, device=task.device)
        place[torch.tensor(kept, device=task.device)] = torch.arange(len(kept), device=task.device)
        task = place[task]
    return Features(state.flatten(0, 1).index_select(0, task * state.shape[1] + records.rows))


def gumbel(like: Tensor, names: Sequence[object], *place: object) -> Tensor:
    """Gumbel noise [U, E], shaped as ``like``, each row's keyed by the place and its name."""
    generator, draws = torch.Generator(), []
    for name in names:
        generator.manual_seed(key(*place, name))
        draws.append(torch.empty(like.shape[1]).exponential_(generator=generator).log().neg())
    return torch.stack(draws).to(like)


def straight(logits: Tensor, warmth: Tensor | float) -> Tensor:
    """One-hot of the greatest logit, its gradient that of softmax(logits / warmth): [U, E]."""
    soft = (logits / warmth).softmax(1)
    return F.one_hot(logits.argmax(1), logits.shape[1]).to(soft) + soft - soft.detach()


def at_least(settings: object, **least: float) -> None:
    """Raise ``ValueError`` for the first setting (a number, or some by task) below its least."""
    for name, bound in least.items():
        found = getattr(settings, name)
        for value in found.values() if isinstance(found, Mapping) else (found,):
            if value < bound:
                raise ValueError(f"{name} must be at least {bound}, got {value}")


def by_task(name: str, given: int | Mapping[str, int], tasks: TaskSet) -> list[int]:
    """A setting's number for each task; a mapping names those that differ from 1.

    Raises ``ValueError`` for the name of no task.
    """
    if not isinstance(given, Mapping):
        return [given] * len(tasks)
    for task in given:
        if task not in tasks.position:
            raise ValueError(f"{name}: no task {task!r}{did_you_mean(task, tasks.names)}")
    return [given.get(task, 1) for task in tasks.names]
