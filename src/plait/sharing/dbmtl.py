r"""A tower for each task, and a Bayesian network of tasks: a task reads what its parents have made.

With x = encoder(inputs) [B, d], s_t = tower_t(x) [B, width], and the parents of a task among the
others, the features of task t are

    r_t = ReLU(A_t s_t + Σ_{j of parents(t)} C_tj r_j + b_t)          [B, width]

which is one layer on [s_t; r_j, …]: the likelihood is Π_t P(y_t | parents of t, x), and hidden
features stand for the parents, not their probabilities or labels. Gradients flow from a task to its
parents. A tower has ``depth`` layers with ReLU. Parameters beside the encoder, with P the pairs of
task and parent: T·((d+1)·width + (depth−1)·(width+1)·width) + T·(width+1)·width + P·width².

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="seconds", kind="real"), Task(name="like")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"depth": 0}}}, seed=0,
    ...     sharing=Dbmtl(parents={"seconds": ["click"], "like": ["click", "seconds"]}, width=5),
    ... )
    >>> sum(p.numel() for p in network.trunk.parameters()) == 3 * 4 * 5 + 3 * 6 * 5 + 3 * 25
    True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import ClassVar

import torch
from torch import Tensor, nn

from plait.batch import Parts, Records
from plait.method import Card, Law, Need, Paper, did_you_mean
from plait.networks.base import Bank, Encoder, Features, MakeEncoder, Sharing, Trunk, uniform
from plait.sharing.base import at_least, own_rows, present
from plait.sharing.towers import Towers, links_of
from plait.task import TaskSet

Graph = Mapping[str, Sequence[str]]  # task → its parents, parents before children


@dataclass(frozen=True, kw_only=True)
class Dbmtl(Sharing):
    """Deep Bayesian multi-task learning; ``parents`` of tasks, by default the one each is after."""

    parents: Mapping[str, Sequence[str]] | None = None
    width: int = 64
    depth: int = 1

    card = Card(
        family="sharing",
        name="dbmtl",
        summary="Each task reads, beside its own tower, the hidden features of its parents.",
        paper=Paper(
            title="Deep Bayesian Multi-Target Learning for Recommender Systems",
            authors="Qi Wang and Zhihui Ji and Huasheng Liu and Binqiang Zhao",
            year=2019,
            venue="arXiv:1902.09154",
            url="https://arxiv.org/abs/1902.09154",
        ),
        needs=frozenset({Need.ORDERED}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "the bottom is the encoder, without experts between it and the towers",
            "one layer joins a task's tower with its parents",
        ),
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"parents": "both"}

    def __post_init__(self) -> None:
        at_least(self, width=1, depth=1)

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, the towers, and the layers that join them along the graph.

        Raises ``ValueError`` for unknown tasks, for a circle of them, and where nothing says which
        task comes after which.
        """
        graph = graph_of(tasks, self.parents)
        return _Dbmtl(encoder(), tasks, self, graph)


def graph_of(tasks: TaskSet, parents: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    """Every task and its parents, parents before children."""
    if parents is None:
        parents = {name: before[-1:] for name, before in links_of(tasks).items()}
    for name in (*parents, *(parent for some in parents.values() for parent in some)):
        if name not in tasks.position:
            raise ValueError(f"parents: no task {name!r}{did_you_mean(name, tasks.names)}")
    edges = {name: list(dict.fromkeys(parents.get(name, ()))) for name in tasks.names}
    try:
        order = list(TopologicalSorter(edges).static_order())
    except CycleError as error:
        circle = " → ".join(reversed(error.args[1]))
        raise ValueError(f"parents: tasks come after one another in a circle, {circle}") from None
    return {name: edges[name] for name in order}


def _trainers(graph: Graph) -> dict[str, frozenset[str]]:
    """Task → itself and all that read it, directly or not."""
    found = {name: {name} for name in graph}
    for name in reversed(list(graph)):
        for parent in graph[name]:
            found[parent] |= found[name]
    return {name: frozenset(some) for name, some in found.items()}


class _Dbmtl(Trunk):
    def __init__(self, encoder: Encoder, tasks: TaskSet, settings: Dbmtl, graph: Graph) -> None:
        super().__init__(tasks, settings.width)
        self.encoder, self.graph, self.trainers = encoder, graph, _trainers(graph)
        size = (encoder.width, settings.width, settings.depth)
        self.towers = Towers(tasks, *size, self.trainers)
        self.joined = _Joined(tasks, graph, self.trainers, settings.width)

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        task = {group: self.positions(group, records) for group, records in asked.items()}
        kept = present(list(task.values()), len(self.tasks))
        names = self.tasks.names
        if kept is not None:  # and what they read
            asking = {names[t] for t in kept}
            kept = [t for t, name in enumerate(names) if self.trainers[name] & asking]
        there = [names[t] for t in (range(len(names)) if kept is None else kept)]
        towers = self.towers(self.encoder(parts), kept)
        states = self.joined(dict(zip(there, towers.unbind(0), strict=True)))
        stacked = torch.stack([states[name] for name in there])
        return {g: own_rows(stacked, kept, asked[g], task[g]) for g in asked}, {}


class _Joined(nn.Module):
    """What each task makes of its tower and its parents."""

    def __init__(
        self, tasks: TaskSet, graph: Graph, trainers: Mapping[str, frozenset[str]], width: int
    ) -> None:
        super().__init__()
        self.graph, self.place = graph, tasks.position
        self.own = Bank(tasks.names, trainers=[trainers[name] for name in tasks.names])
        self.own.add("weight", width, width, start=uniform(width))
        self.own.add("bias", width, start=uniform(width))
        self.pairs = [(name, parent) for name in tasks.names for parent in graph[name]]
        self.parents = None
        if self.pairs:
            children, parents = zip(*self.pairs, strict=True)
            who = [trainers[name] for name in children]
            self.parents = Bank(children, parents, trainers=who)
            self.parents.add("weight", width, width, start=uniform(width))

    def forward(self, towers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{task: s_t [B, width]} of tasks and all that they read → {task: r_t}."""
        found: dict[str, Tensor] = {}
        weight, bias = self.own.stack("weight"), self.own.stack("bias")
        for name in self.graph:
            if name in towers:
                place = self.place[name]
                h = torch.addmm(bias[place], towers[name], weight[place].T)
                for parent in self.graph[name]:
                    assert self.parents is not None
                    across = self.parents.stack("weight")[self.pairs.index((name, parent))]
                    h = torch.addmm(h, found[parent], across.T)
                found[name] = h.relu()
        return found
