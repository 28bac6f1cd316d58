r"""A tree of layers whose branches are learnt: each node draws the one node above that it reads.

Level l has N_l nodes, one for each task at the last level L and ``nodes`` at the others. With x =
encoder(inputs) [B, d], node j of level l gives

    y_j^1 = ReLU(W_j^1 x + b_j^1)                                                  [B, width]
    y_j^l = ReLU(W_j^l Σ_i z_ji^l y_i^{l−1} + b_j^l),            l = 2…L
    z_j^l = one-hot of argmax (θ_j^l + noise), its gradient that of softmax((θ_j^l + noise) / τ)

and y_t^L are the features of task t. θ^l [N_l, N_{l−1}] is learnt with the weights and starts at 1;
the noise is Gumbel's, one draw a step for all rows. τ falls with the step, max(warmth / √(step+1),
0.1). In evaluation there is no noise: each node reads the one with the greatest θ, and only nodes
that a task asked for leads back to are run. :func:`branches` tells that tree. Parameters beside the
encoder, with ``depth`` levels: nodes·(d+1)·width + ((depth−2)·nodes + T)·(width+1)·width +
(depth−2)·nodes² + T·nodes.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"depth": 0}}},
    ...     sharing=Ltb(nodes=4, depth=2, width=5), seed=0,
    ... )
    >>> sum(p.numel() for p in network.trunk.parameters()) == 4 * 4 * 5 + 2 * 6 * 5 + 2 * 4
    True
    >>> branches(network)
    {'click': (0, 0), 'buy': (0, 1)}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from plait.batch import Parts, Records
from plait.method import Card, Law, Paper
from plait.networks.base import (
    Bank,
    Encoder,
    Features,
    MakeEncoder,
    Name,
    Sharing,
    TaskBank,
    Trunk,
    ones,
)
from plait.networks.network import Network
from plait.networks.routing import followed
from plait.sharing.base import Experts, Kept, at_least, gumbel, own_rows, present, straight
from plait.task import TaskSet

COLDEST = 0.1  # the lowest temperature


@dataclass(frozen=True, kw_only=True)
class Ltb(Sharing):
    """Learning to branch; ``nodes`` at each level but the last, which has one for each task."""

    nodes: int = 4
    depth: int = 3
    width: int = 64
    warmth: float = 10.0

    card = Card(
        family="sharing",
        name="ltb",
        summary="A tree of layers whose branches are learnt with the weights.",
        paper=Paper(
            title="Learning to Branch for Multi-Task Learning",
            authors="Pengsheng Guo and Chen-Yu Lee and Daniel Ulbricht",
            year=2020,
            venue="ICML",
            url="https://proceedings.mlr.press/v119/guo20e.html",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "the tree stands on one encoder; an encoder of depth 0 is the paper's",
            "the weights that were learnt with the tree are kept; it is not trained anew",
            "the temperature falls by a schedule of its own, down to 0.1",
        ),
    )

    def __post_init__(self) -> None:
        at_least(self, nodes=1, depth=2, width=1, warmth=COLDEST)

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, and the nodes on it."""
        return _Ltb(encoder(), tasks, self)


class _Ltb(Trunk):
    step: Tensor

    def __init__(self, encoder: Encoder, tasks: TaskSet, settings: Ltb) -> None:
        super().__init__(tasks, settings.width)
        self.encoder, self.warmth = encoder, settings.warmth
        inner: list[Sequence[Name]] = [[None] * settings.nodes] * (settings.depth - 1)
        names = [*inner, tasks.names]
        inside = [encoder.width, *[settings.width] * (settings.depth - 1)]
        self.levels, self.routes = nn.ModuleList(), nn.ModuleList()
        for own, d in zip(names, inside, strict=True):
            units = range(len(own))
            last = own is tasks.names
            self.levels.append(Experts(own, d, settings.width, units=units, specific=last))
        for before, own in pairwise(names):
            route = TaskBank(tasks.names) if own is tasks.names else Bank(own)
            route.add("theta", len(before), start=ones)
            self.routes.append(route)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def advance(self, step: int) -> None:
        """Let the temperature fall."""
        self.step.fill_(step)

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        task = {group: self.positions(group, records) for group, records in asked.items()}
        kept = present(list(task.values()), len(self.tasks))
        x = self.encoder(parts)
        state = self._drawn(x, kept) if self.training else self._chosen(x, kept)
        return {g: own_rows(state, kept, asked[g], task[g]) for g in asked}, {}

    def theta(self) -> list[Tensor]:
        """The logits [N_l, N_{l−1}] of the levels from the second on."""
        return [cast("Bank", route).stack("theta") for route in self.routes]

    def _drawn(self, x: Tensor, kept: Kept) -> Tensor:
        """The last level's states [U, B, width], along a tree drawn for this step."""
        base = int(torch.randint(2**62, ()).item())
        warmth = torch.clamp(self.warmth / (self.step + 1).sqrt(), min=COLDEST)
        first, *levels = self.levels
        state = first(x).transpose(0, 1)
        for number, (level, theta) in enumerate(zip(levels, self.theta(), strict=True)):
            last = level is levels[-1]
            names: Sequence[object] = self.tasks.names if last else range(len(theta))
            there = kept if last else None
            if there is not None:
                names = [names[t] for t in there]
                theta = theta.index_select(0, torch.tensor(there, device=theta.device))
            route = straight(theta + gumbel(theta, names, base, number), warmth)
            state = level(torch.einsum("ji,ibd->jbd", route, state), there).transpose(0, 1)
        return cast("Tensor", state)

    def _chosen(self, x: Tensor, kept: Kept) -> Tensor:
        """The last level's states [U, B, width], along the most probable tree."""
        parents = [theta.argmax(1) for theta in self.theta()]
        there: list[Kept] = [kept]
        if followed():
            there *= len(self.levels)
        else:
            needed = range(len(self.tasks)) if kept is None else kept
            for parent in reversed(parents):
                needed = sorted(set(parent[torch.tensor(needed, device=x.device)].tolist()))
                there.insert(0, needed)
        first, *levels = self.levels
        state = first(x, there[0]).transpose(0, 1)
        for level, parent, (above, own) in zip(levels, parents, pairwise(there), strict=True):
            if own is not None:
                parent = parent[torch.tensor(own, device=x.device)]
            if above is not None:
                # ``above`` ascends: a parent's place in it is how many of it come before.
                parent = torch.searchsorted(torch.tensor(above, device=x.device), parent)
            state = level(state.index_select(0, parent), own).transpose(0, 1)
        return cast("Tensor", state)


def branches(network: Network) -> dict[str, tuple[int, ...]]:
    """Task → the nodes it reads in evaluation, the first level's first.

    Raises ``TypeError`` for a network of another architecture.
    """
    if not isinstance(network.trunk, _Ltb):
        raise TypeError("only a network with sharing ltb has branches")
    parents = [theta.argmax(1).tolist() for theta in network.trunk.theta()]
    found = {}
    for number, name in enumerate(network.tasks.names):
        path = [number]
        for parent in reversed(parents):
            path.insert(0, parent[path[0]])
        found[name] = tuple(path)
    return found
