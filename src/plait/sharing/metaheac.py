r"""Shared experts and shared critics, both mixed by gates that know a task by its vector alone.

With x = encoder(inputs) [B, d] and a learnt vector e_t [size] for each task, for a row of task t:

    h_t = Σ_e softmax(a([e_t; x]))_e expert_e(x)            [B, width]
    f_t = Σ_c softmax(b([e_t; x]))_c critic_c(h_t)          [B, width]

and f_t are the features of task t. The gates a and b have one ``hidden`` layer with ReLU and are
the same for all tasks: a new task is a new vector and a head. Experts have ``depth`` layers with
ReLU, critics one. Parameters beside the encoder, with E experts and C critics: E·((d+1)·width +
(depth−1)·(width+1)·width) + C·(width+1)·width + T·size + 2·(size+d+1)·hidden + (hidden+1)·(E+C).

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"depth": 0}}}, seed=0,
    ...     sharing=Metaheac(experts=4, critics=2, width=5, depth=1, size=6, hidden=7),
    ... )
    >>> mixed, gates = 4 * 4 * 5 + 2 * 6 * 5, 2 * (6 + 3 + 1) * 7 + 8 * (4 + 2)
    >>> sum(p.numel() for p in network.trunk.parameters()) == mixed + gates + 2 * 6
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.batch import Parts, Records
from plait.method import Card, Law, Paper
from plait.networks.base import (
    Bank,
    Encoder,
    Features,
    MakeEncoder,
    Sharing,
    TaskBank,
    Trunk,
    uniform,
)
from plait.sharing.base import Experts, Mixture, at_least, mix
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Metaheac(Sharing):
    """Meta hybrid experts and critics; ``size`` of a task's vector."""

    experts: int = 8
    critics: int = 5
    width: int = 64
    depth: int = 2
    size: int = 64
    hidden: int = 64

    card = Card(
        family="sharing",
        name="metaheac",
        summary="Shared experts and critics, mixed by gates that read a vector of the task.",
        paper=Paper(
            title="Learning to Expand Audience via Meta Hybrid Experts and Critics for "
            "Recommendation and Advertising",
            authors="Yongchun Zhu and Yudan Liu and Ruobing Xie and Fuzhen Zhuang and Xiaobo Hao "
            "and Kaikai Ge and Xu Zhang and Leyu Lin and Juan Cao",
            year=2021,
            venue="KDD",
            url="https://doi.org/10.1145/3447548.3467093",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "trained by plain steps, not by meta-learning on support and query sets",
            "critics give features for a head of each task; the paper's give probabilities",
            "gates read the encoder's output in place of the mean of the field embeddings",
        ),
    )

    def __post_init__(self) -> None:
        at_least(self, experts=1, critics=1, width=1, depth=1, size=1, hidden=1)

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, the experts and critics, their gates, and a vector for each task."""
        return _Metaheac(encoder(), tasks, self)


class _Metaheac(Trunk):
    def __init__(self, encoder: Encoder, tasks: TaskSet, settings: Metaheac) -> None:
        super().__init__(tasks, settings.width)
        self.encoder = encoder
        self.vectors = TaskBank(tasks.names)
        self.vectors.add("vector", settings.size, start=uniform(settings.size))
        d, width = encoder.width, settings.width
        self.first = _Gated(tasks, settings, d, Experts(settings.experts, d, width, settings.depth))
        self.second = _Gated(tasks, settings, d, Experts(settings.critics, width, width))

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        x, vectors = self.encoder(parts), self.vectors.stack("vector")
        outputs = self.first.experts(x)
        found = {}
        for group, records in asked.items():
            task, own = self.positions(group, records), Features(x, records.rows)
            h = mix(outputs, self.first.gate(own, task, vectors), records.rows, task)
            weights = self.second.gate(own, task, vectors)
            mixed = torch.bmm(weights.unsqueeze(1), self.second.experts(h))
            found[group] = Features(mixed.squeeze(1))
        return found, {}


class _Gated(nn.Module):
    """Experts (or critics), and the gate that mixes them."""

    def __init__(self, tasks: TaskSet, settings: Metaheac, inside: int, experts: Experts) -> None:
        super().__init__()
        self.experts = experts
        self.gate = VectorGates(tasks, settings, inside, len(experts.units))


class VectorGates(Mixture):
    """Gates of one hidden layer on a task's vector beside what is known of the row."""

    def __init__(self, tasks: TaskSet, settings: Metaheac, inside: int, experts: int) -> None:
        super().__init__(tasks.names, [range(experts)] * len(tasks), [None] * experts)
        hidden, whole = settings.hidden, settings.size + inside
        self.bank = Bank([None])
        self.bank.add("vector", hidden, settings.size, start=uniform(whole))
        self.bank.add("row", hidden, inside, start=uniform(whole))
        self.bank.add("bias", hidden, start=uniform(whole))
        self.bank.add("weight", experts, hidden, start=uniform(hidden))
        self.bank.add("weight_bias", experts, start=uniform(hidden))

    def forward(self, features: Features, task: Tensor, vectors: Tensor) -> Tensor:
        """The gates [N, E] of records, of tasks [N], with the vectors [T, size]."""
        names = ("vector", "row", "bias", "weight", "weight_bias")
        vector, row, bias, weight, second = (self.bank.stack(name)[0] for name in names)
        # Each row and each task is mapped once, whatever records there are.
        known = Features(F.linear(features.values, row, bias), features.rows).records
        there = torch.zeros(len(vectors), 1, dtype=torch.bool, device=task.device)
        there = there.index_fill(0, task, value=True)
        told = F.linear(vectors.where(there, 0.0), vector).index_select(0, task)
        return F.linear((known + told).relu(), weight, second).softmax(1)
