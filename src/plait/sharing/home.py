r"""Normalised experts in two levels: of categories of tasks, then of the tasks themselves.

Unit u reads v_u through a gate on its features, x_u = v_u ⊙ 2σ(v_u B_u A_u), with B_u [d, rank]
and A_u [rank, d], and its expert e gives Y_e = swish(norm(expert_e(x_u))) [B, width], a batch norm.
With v = encoder(inputs) [B, d], at level 1 for each category c of tasks and the shared unit s,
v_c = v_s = v:

    z_c = Σ_{e of c or s} softmax(W_c x_c + b_c)_e Y_e + Σ_{e of c} own_c(x_c)_e Y_e
    z_s = Σ_{all e} softmax(W_s x_s + b_s)_e Y_e + Σ_{e of s} own_s(x_s)_e Y_e

At level 2, for each task t of category c, with v_s = z_s, v_c = z_c and v_t = z_c:

    f_t = Σ_{e of t, c or s} softmax(W_t [x_t; x_s] + b_t)_e Y_e + Σ_{e of t} own_t(x_t)_e Y_e

are its features; own_u is a linear map with softmax over several experts, a sigmoid for one: a
unit's own experts always learn. An expert has ``depth`` linear layers with ReLU between them. With
C categories of ``shared`` = n experts, m own ``experts`` of each of T tasks, N(d) = (d+1)·width +
(depth−1)·(width+1)·width + 2·width and w the width, the parameters beside the encoder are
(C+1)·(n·N(d) + 2·d·rank + n·(d+1)) + (d+1)·(2·C·n + (C+1)·n) and at level 2
(T·m + (C+1)·n)·N(w) + (T+C+1)·2·w·rank + T·(2·w+1)·(m+2·n) + T·m·(w+1).

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="play"), Task(name="like"), Task(name="share")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> home = Home(categories={"watch": ["play"], "react": ["like", "share"]}, width=5, rank=2)
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"depth": 0}}}, sharing=home,
    ...     seed=0,
    ... )
    >>> first = 3 * (2 * (4 * 5 + 10) + 2 * 3 * 2 + 2 * 4) + 4 * (2 * 2 * 2 + 3 * 2)
    >>> second = (3 + 6) * (6 * 5 + 10) + 6 * 2 * 5 * 2 + 3 * 11 * (1 + 4) + 3 * 6
    >>> sum(p.numel() for p in network.trunk.parameters()) == first + second
    True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

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
)
from plait.sharing.base import Experts, Gates, Kept, at_least, mix, own_rows, present
from plait.sharing.categories import FeatureGates, Meta, Norm, SelfGates, categories_of
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Home(Sharing):
    """Hierarchy of multi-gate experts; ``categories``: name → its tasks (None: by their kinds)."""

    categories: Mapping[str, Sequence[str]] | None = None
    experts: int = 1
    shared: int = 2
    width: int = 64
    depth: int = 1
    rank: int = 8

    card = Card(
        family="sharing",
        name="home",
        summary="Normalised experts of categories, then of tasks, each unit with gates of its own.",
        paper=Paper(
            title="HoME: Hierarchy of Multi-Gate Experts for Multi-Task Learning at Kuaishou",
            authors="Xu Wang and Jiangxia Cao and Zhiyi Fu and Kun Gai and Guorui Zhou",
            year=2024,
            venue="arXiv:2408.05430",
            url="https://arxiv.org/abs/2408.05430",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT}),
        deviations=(
            "what units of level 2 read, and a feature gate a unit, are as in public rewritings",
            "a feature gate is one map of low rank at both levels, not a sum of several",
            "categories are any, by default the kinds of tasks; the paper's watch and interact",
        ),
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"categories": "values"}

    def __post_init__(self) -> None:
        at_least(self, experts=1, shared=1, width=1, depth=1, rank=1)

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, the level of categories on it, and that of tasks on both."""
        categories = categories_of(tasks, self.categories)
        return _Home(encoder(), tasks, self, categories)


class _Home(Trunk):
    category: Tensor

    def __init__(
        self, encoder: Encoder, tasks: TaskSet, settings: Home, categories: dict[str, list[int]]
    ) -> None:
        super().__init__(tasks, settings.width)
        self.encoder = encoder
        names: list[Name] = [*categories, None]
        who = [frozenset(tasks.names[t] for t in some) for some in categories.values()]
        who.append(frozenset(tasks.names))
        place = {t: c for c, some in enumerate(categories.values()) for t in some}
        category = [place[t] for t in range(len(tasks))]
        self.register_buffer("category", torch.tensor(category), persistent=False)
        self.meta = Meta(names, who, encoder.width, settings)
        self.last = _Last(tasks.names, category, names, who, settings)

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        task = {group: self.positions(group, records) for group, records in asked.items()}
        kept = present(list(task.values()), len(self.tasks))
        z = self.meta(self.encoder(parts))
        category = self.category if kept is None else self.category[list(kept)]
        own, common, outputs, columns = self.last.outputs(z, category, kept)
        found = {}
        for group, records in asked.items():
            mine, shared = own_rows(own, kept, records, task[group]), common[-1][records.rows]
            weights = self.last.weights(mine, shared, task[group], columns)
            found[group] = Features(mix(outputs, weights, records.rows, task[group]))
        return found, {}


class _Last(nn.Module):
    """The second level: experts of tasks, of categories and shared ones."""

    def __init__(
        self,
        tasks: Sequence[str],
        category: Sequence[int],
        names: Sequence[Name],
        who: Sequence[frozenset[str]],
        settings: Home,
    ) -> None:
        super().__init__()
        width, rank, m, n = settings.width, settings.rank, settings.experts, settings.shared
        units = [t for t in range(len(tasks)) for _ in range(m)]
        more = [c for c in range(len(names)) for _ in range(n)]
        owners, others = [tasks[t] for t in units], [names[c] for c in more]
        trained = [who[c] for c in more]
        size = (width, width, settings.depth)
        self.own_features = FeatureGates(TaskBank(tasks), width, rank)
        self.features = FeatureGates(Bank(names, trainers=who), width, rank)
        self.own = Experts(owners, *size, units=units, specific=True, linear=True)
        self.common = Experts(others, *size, units=more, linear=True, trainers=trained)
        self.own_norm = Norm(TaskBank(owners), width)
        self.norm = Norm(Bank(others, trainers=trained), width)
        place = {unit: range(len(units) + unit * n, len(units) + unit * n + n) for unit in {*more}}
        mine = [range(t * m, t * m + m) for t in range(len(tasks))]
        last = place[len(names) - 1]
        reads = [[*own, *place[c], *last] for own, c in zip(mine, category, strict=True)]
        self.gates = Gates(tasks, reads, [*owners, *others], 2 * width)
        self.selves = SelfGates(TaskBank(tasks), m, width)
        self.experts = m

    def outputs(
        self, z: Tensor, category: Tensor, kept: Kept
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """What units read [U, B, w], what experts give [B, E, w], and which where some are left."""
        own, common = self.own_features(z.index_select(0, category), kept), self.features(z)
        mine = None if kept is None else self.own.columns(kept)
        given = [self.own_norm(self.own(own, kept), mine), self.norm(self.common(common))]
        columns = None
        if mine is not None:
            rest = range(len(self.own.units), self.gates.experts)
            columns = torch.tensor([*mine, *rest], device=z.device)
        return own, common, torch.cat(given, 1), columns

    def weights(
        self, own: Features, shared: Tensor, task: Tensor, columns: Tensor | None
    ) -> Tensor:
        """The weights [N, E] with which records, of tasks [N], read the experts (these of them)."""
        weights: Tensor = self.gates(Features(torch.cat([own.records, shared], 1)), task)
        mine = self.gates.reads[task][:, : self.experts]
        weights = weights.scatter_add(1, mine, self.selves.of(own, task))
        return weights if columns is None else weights.index_select(1, columns)
