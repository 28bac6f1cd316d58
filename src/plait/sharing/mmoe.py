r"""Experts that all tasks share, mixed for each task by a gate of its own.

Features of a record (task t, row b), with x = encoder(inputs) [B, d]:

    f_t(x_b) = tower_t( Σ_e g_t(x_b)_e · expert_e(x_b) ),    g_t(x) = softmax(W_t x)

expert_e: d → width, ``depth`` layers with ReLU; W [T, E, d], no bias; tower_t, left out by default:
one layer width → tower with ReLU. The experts are one stacked tensor, the gates of all tasks
another, and only the gates of the records asked for are computed. Parameters beside the encoder:
E·((d+1)·width + (depth−1)·(width+1)·width) + T·E·d, and T·(width+1)·tower with towers.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"depth": 0}}},
    ...     sharing=Mmoe(experts=4, width=5), seed=0,
    ... )
    >>> sum(p.numel() for p in network.trunk.parameters()) == 4 * (3 + 1) * 5 + 2 * 4 * 3
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from plait.batch import Parts, Records
from plait.method import Card, Law, Paper
from plait.networks.base import Encoder, Features, MakeEncoder, Sharing, TaskBank, Trunk, uniform
from plait.networks.routing import routed_linear
from plait.sharing.base import Experts, Gates, at_least, mix
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Mmoe(Sharing):
    """Multi-gate mixture of experts; ``tower``: width of a layer per task after it, or 0."""

    experts: int = 8
    width: int = 64
    depth: int = 1
    tower: int = 0

    card = Card(
        family="sharing",
        name="mmoe",
        summary="Experts that all tasks share, mixed for each task by a gate of its own.",
        paper=Paper(
            title="Modeling Task Relationships in Multi-task Learning with "
            "Multi-gate Mixture-of-Experts",
            authors="Jiaqi Ma and Zhe Zhao and Xinyang Yi and Jilin Chen and Lichan Hong and "
            "Ed H. Chi",
            year=2018,
            venue="KDD",
            url="https://doi.org/10.1145/3219819.3220007",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=("the experts read the encoder's output; an encoder of depth 0 is the paper's",),
    )

    def __post_init__(self) -> None:
        at_least(self, experts=1, width=1, depth=1, tower=0)

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, the experts on it, and a gate for each task."""
        return _Mmoe(encoder(), tasks, self)


class _Mmoe(Trunk):
    def __init__(self, encoder: Encoder, tasks: TaskSet, settings: Mmoe) -> None:
        super().__init__(tasks, settings.tower or settings.width)
        self.encoder = encoder
        self.experts = Experts(settings.experts, encoder.width, settings.width, settings.depth)
        every, owners = [range(settings.experts)] * len(tasks), [None] * settings.experts
        self.gate = Gates(tasks.names, every, owners, encoder.width, bias=False)
        self.tower = TaskBank(tasks.names) if settings.tower else None
        if self.tower:
            start = uniform(settings.width)
            self.tower.add("weight", settings.tower, settings.width, start=start)
            self.tower.add("bias", settings.tower, start=start)

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        x = self.encoder(parts)
        outputs = self.experts(x)
        return {group: self._mixed(x, outputs, group, asked[group]) for group in asked}, {}

    def _mixed(self, x: Tensor, outputs: Tensor, group: str, records: Records) -> Features:
        task = self.positions(group, records)
        gates = self.gate(Features(x, records.rows), task)
        features = Features(mix(outputs, gates, records.rows, task))
        if self.tower is None:
            return features
        weight, bias = self.tower.stack("weight"), self.tower.stack("bias")
        return Features(routed_linear(features, task, weight, bias).relu())
