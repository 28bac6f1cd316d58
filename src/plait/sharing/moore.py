r"""Experts whose outputs are made orthonormal for each row, and weighed by each task.

With x = encoder(inputs) [B, d], for each row b on its own and experts e = 1…E in their order:

    u_e = expert_e(x_b)                                                            [width]
    w_e = u_e − Σ_{j<e} ⟨u_e, v_j⟩ v_j,    v_e = w_e / ‖w_e‖
    f_t(x_b) = tanh( Σ_e a_te v_e )

expert_e: ``depth`` layers, ReLU between them, the last one linear; a [T, E] is learnt and may be
negative. The projections are taken twice, so that rounding leaves the v_e orthonormal. Where
experts say the same, ‖w_e‖ is held at 10⁻⁶ of ‖u_e‖ and v_e is shorter than 1. Parameters beside
the encoder: E·((d+1)·width + (depth−1)·(width+1)·width) + T·E.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"depth": 0}}},
    ...     sharing=Moore(experts=3, width=5, depth=2), seed=0,
    ... )
    >>> sum(p.numel() for p in network.trunk.parameters()) == 3 * (4 * 5 + 6 * 5) + 2 * 3
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from plait.batch import Parts, Records
from plait.method import Card, Law, Paper
from plait.networks.base import Encoder, Features, MakeEncoder, Sharing, TaskBank, Trunk, uniform
from plait.sharing.base import Experts, at_least, mix
from plait.task import TaskSet

FLOOR = 1e-6  # of an expert's length: what is left of it beside the others counts as that much


@dataclass(frozen=True, kw_only=True)
class Moore(Sharing):
    """Mixture of orthogonal experts; ``width`` must have room for all of them."""

    experts: int = 4
    width: int = 64
    depth: int = 2

    card = Card(
        family="sharing",
        name="moore",
        summary="Experts made orthonormal to one another for each row, weighed by each task.",
        paper=Paper(
            title="Multi-Task Reinforcement Learning with Mixture of Orthogonal Experts",
            authors="Ahmed Hendawy and Jan Peters and Carlo D'Eramo",
            year=2024,
            venue="ICLR",
            url="https://arxiv.org/abs/2311.11385",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "projections are taken twice and lengths have a floor; the authors' have none",
            "the experts read the encoder's output; an encoder of depth 0 is the paper's",
            "experts and tasks' weights start uniform in ±1/√(inputs), not by Xavier's rule",
        ),
    )

    def __post_init__(self) -> None:
        at_least(self, experts=1, width=1, depth=1)
        if self.width < self.experts:
            raise ValueError(
                f"{self.experts} experts cannot be orthogonal in a width of {self.width}; "
                "width must be at least experts"
            )

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, the experts on it, and each task's weights."""
        return _Moore(encoder(), tasks, self)


class _Moore(Trunk):
    def __init__(self, encoder: Encoder, tasks: TaskSet, settings: Moore) -> None:
        super().__init__(tasks, settings.width)
        self.encoder = encoder
        self.experts = Experts(
            settings.experts, encoder.width, settings.width, settings.depth, linear=True
        )
        self.weights = TaskBank(tasks.names)
        self.weights.add("weight", settings.experts, start=uniform(settings.experts))

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        outputs = orthonormal(self.experts(self.encoder(parts)))
        weight, found = self.weights.stack("weight"), {}
        for group, records in asked.items():
            task = self.positions(group, records)
            mixed = mix(outputs, weight.index_select(0, task), records.rows, task)
            found[group] = Features(mixed.tanh())
        return found, {}


def orthonormal(outputs: Tensor) -> Tensor:
    """Each row's vectors [B, E, d], orthonormal to those before them and of the same span."""
    found: list[Tensor] = []
    for raw in outputs.unbind(1):
        left = raw
        for _ in range(2 if found else 0):  # once leaves rounding where vectors are nearly alike
            before = torch.stack(found, 1)
            along = torch.bmm(before, left.unsqueeze(2))
            left = left - torch.bmm(along.transpose(1, 2), before).squeeze(1)
        least = FLOOR * raw.norm(dim=1, keepdim=True) + torch.finfo(raw.dtype).tiny
        found.append(left / torch.maximum(left.norm(dim=1, keepdim=True), least))
    return torch.stack(found, 1)
