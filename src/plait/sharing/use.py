"""How tasks use experts: loads, entropies, silent experts, and what has gone wrong by name.

The names are those of HoME (Wang et al., 2024): an expert has *collapsed* whose outputs are nearly
all zero; a shared one has *degraded* that one task has to itself; a task's own experts are
*underfit* that it hardly reads. An expert is *dead* that no task reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plait.batch import Parts, Records
from plait.networks.base import Name
from plait.networks.network import Network, evaluating
from plait.sharing.base import Experts, Mixture
from plait.task import HeadGroup

SILENT = 0.9  # an expert has collapsed from this share of zeros among its outputs
ALONE = 0.9  # a shared expert has degraded from this share of its load that is one task's
UNREAD = 0.1  # own experts are underfit below this part of what even gates would give them
DEAD = 0.01  # an expert is dead below this mean gate of every task


@dataclass(frozen=True)
class ExpertUse:
    """How the tasks use the experts of one mixture, averaged over rows.

    ``load`` [T, E] are mean gates, ``entropy`` [T] that of a row's gates in nats (near 0: a gate
    has settled on one expert), ``silent`` [E] the share of exact zeros among an expert's outputs;
    ``owners`` [E] whose the experts are (None: shared), ``reads`` [T, E] which a task may read.
    """

    place: str
    tasks: tuple[str, ...]
    owners: tuple[Name, ...]
    load: Tensor
    entropy: Tensor
    silent: Tensor
    reads: Tensor

    def failures(self) -> list[str]:
        """What has gone wrong, one sentence for each expert or task."""
        found = [*self._collapsed(), *self._degraded(), *self._underfit()]
        dead = torch.nonzero(self.load.amax(0) < DEAD).flatten().tolist()
        return [*found, *(f"dead: {self.name(e)} is read by no task" for e in dead)]

    def name(self, expert: int) -> str:
        """An expert in words: ``expert 2 of click``, ``shared expert 1``."""
        owner = self.owners[expert]
        number = self.owners[: expert + 1].count(owner)
        return f"shared expert {number}" if owner is None else f"expert {number} of {owner}"

    def _collapsed(self) -> Iterator[str]:
        for e, share in enumerate(self.silent.tolist()):
            if share >= SILENT:
                yield f"collapsed: {share:.0%} of the outputs of {self.name(e)} are zero"

    def _degraded(self) -> Iterator[str]:
        if len(self.tasks) < 2:
            return
        for e, owner in enumerate(self.owners):
            load = self.load[:, e]
            share, task = (load / load.sum().clamp(min=1e-12)).max(0)
            if owner is None and share >= ALONE and load.max() >= DEAD:
                yield f"degraded: {self.name(e)} is read by {self.tasks[int(task)]} alone"

    def _underfit(self) -> Iterator[str]:
        for t, task in enumerate(self.tasks):
            own = torch.tensor([owner == task for owner in self.owners])
            readable = self.reads[t]
            even = float((own & readable).sum()) / max(int(readable.sum()), 1)
            share = float(self.load[t, own].sum())
            if 0 < even < 1 and share < UNREAD * even:
                yield f"underfit: {task} gives {share:.1%} of its gate to its own experts"

    def to_json(self) -> dict[str, Any]:
        """Plain data, as a cell stores it; None for what is not known, or not open to a task."""
        return {
            "place": self.place,
            "tasks": list(self.tasks),
            "experts": [self.name(e) for e in range(len(self.owners))],
            "owners": list(self.owners),
            "load": [
                [_short(v) if may else None for v, may in zip(*row, strict=True)]
                for row in zip(self.load.tolist(), self.reads.tolist(), strict=True)
            ],
            "entropy": [_short(v) for v in self.entropy.tolist()],
            "silent": [_short(v) for v in self.silent.tolist()],
            "failures": self.failures(),
        }


def _short(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


@torch.no_grad()
def expert_use(network: Network, parts: Parts) -> list[ExpertUse]:
    """How the tasks of a network use its experts on these rows; nothing where it has none.

    One entry for each place where tasks have gates of their own, in the order of the network. The
    network runs in evaluation mode and stays as it was.
    """
    some = [next(iter(part.values())) for part in parts.values()]
    rows, device = sum(map(len, some)), some[0].device
    gates: dict[str, list[tuple[Tensor, Tensor | None]]] = {}
    silent: dict[str, list[Tensor]] = {}
    with evaluating(network), _hooked(network, gates, silent):
        groups = network.tasks.groups
        network(parts, {key: _every(group, rows, device) for key, group in groups.items()})
    modules = dict(network.named_modules())
    found = []
    for path, seen in gates.items():
        gate, place = modules[path], path.rpartition(".")[0]
        assert isinstance(gate, Mixture)
        if gate.readers == network.tasks.names:
            beside = [runs for own, runs in silent.items() if own.rpartition(".")[0] == place]
            zeros = seen[0][0].new_full((gate.experts,), torch.nan)
            if beside:
                zeros = torch.cat([torch.cat(runs).mean(0) for runs in beside])
            found.append(_summary(place, gate, seen, zeros))
    return found


def _every(group: HeadGroup, rows: int, device: torch.device) -> Records:
    task = torch.arange(len(group.tasks), device=device).repeat_interleave(rows)
    return Records(task, torch.arange(rows, device=device).repeat(len(group.tasks)))


@contextmanager
def _hooked(
    network: nn.Module,
    gates: dict[str, list[tuple[Tensor, Tensor | None]]],
    silent: dict[str, list[Tensor]],
) -> Iterator[None]:
    """Inside, gates and experts that run leave what they give."""

    def gate(path: str) -> Callable[..., None]:
        def note(_: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
            task = given[1] if len(given) > 1 else None
            gates.setdefault(path, []).append((output, task))

        return note

    def experts(path: str) -> Callable[..., None]:
        def note(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            # Experts run once for rows and once for positions: all runs make one share.
            silent.setdefault(path, []).append((output == 0).to(output.dtype).mean(2))

        return note

    hooks = []
    for path, module in network.named_modules():
        if isinstance(module, Mixture):
            hooks.append(module.register_forward_hook(gate(path)))
        elif isinstance(module, Experts):
            hooks.append(module.register_forward_hook(experts(path)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _summary(
    place: str, gate: Mixture, seen: list[tuple[Tensor, Tensor | None]], silent: Tensor
) -> ExpertUse:
    tasks = len(gate.readers)
    load = seen[0][0].new_zeros(tasks, gate.experts)
    entropy, count = load.new_zeros(tasks), load.new_zeros(tasks)
    for weights, task in seen:
        if task is None:  # [B, T, E]
            load += weights.sum(0)
            entropy += torch.special.entr(weights).sum((0, 2))
            count += len(weights)
        else:
            load.index_add_(0, task, weights)
            entropy.index_add_(0, task, torch.special.entr(weights).sum(1))
            count += torch.bincount(task, minlength=tasks)
    load, entropy = load / count.unsqueeze(1), entropy / count
    readable = torch.zeros(tasks, gate.experts + 1, dtype=torch.bool)
    readable.scatter_(1, gate.reads.cpu(), value=True)
    names = tuple(map(str, gate.readers))
    return ExpertUse(
        place, names, gate.about, load.cpu(), entropy.cpu(), silent.cpu(), readable[:, :-1]
    )
