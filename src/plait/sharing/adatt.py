r"""Experts of each task, fused for every task over all of them, beside a residual of its own.

At level l, with unit u one of the tasks 1…T (or a shared one) and h_u^0 = x = encoder(inputs):

    Y_e = expert_e(h_u^{l−1}),  e of unit u                  [B, width]
    h_u^l = Σ_{all e} softmax(S_u h_u^{l−1} + b_u)_e Y_e + Σ_{e of u} v_{u,e} Y_e

and h_t^L are the features of task t. The weights v are learnt, one for each level, unit and own
expert; where every unit has one expert they are 1. A shared unit has no gate at the last level.
Each expert has ``depth`` layers with ReLU. N = (d+1)·width + (depth−1)·(width+1)·width with d the
width of what is read, E experts a level of which m_u are unit u's; parameters beside the encoder:
Σ_l E·N + U_l·(d+1)·E, and Σ_l Σ_u m_u where v is learnt, U_l the units with a gate at level l.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"depth": 0}}},
    ...     sharing=AdaTT(experts=2, width=5, levels=2), seed=0,
    ... )
    >>> levels = 4 * 4 * 5 + 2 * 4 * 4 + 4, 4 * 6 * 5 + 2 * 6 * 4 + 4
    >>> sum(p.numel() for p in network.trunk.parameters()) == sum(levels)
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from plait.method import Card, Law, Paper
from plait.networks.base import MakeEncoder, Sharing, Trunk
from plait.sharing.base import at_least, by_task
from plait.sharing.levels import Form, Levels
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class AdaTT(Sharing):
    """Adaptive task-to-task fusion; ``shared`` experts form a unit of their own (0: AdaTT-sp)."""

    experts: int | Mapping[str, int] = 1
    shared: int = 0
    width: int = 64
    depth: int = 1
    levels: int = 2

    card = Card(
        family="sharing",
        name="adatt",
        summary="Every task fuses the experts of all tasks, beside a residual of its own.",
        paper=Paper(
            title="AdaTT: Adaptive Task-to-Task Fusion Network for Multitask Learning in "
            "Recommendations",
            authors="Danwei Li and Zhengyu Zhang and Siyang Yuan and Mingze Gao and Weilin Zhang "
            "and Chaofei Yang and Xi Liu and Jiyan Yang",
            year=2023,
            venue="KDD",
            url="https://doi.org/10.1145/3580305.3599769",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=("the experts read the encoder's output; an encoder of depth 0 is the paper's",),
        exceptions={"more_tasks_change_no_output": "every task fuses the experts of all tasks"},
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"experts": "keys"}

    def __post_init__(self) -> None:
        at_least(self, experts=1, shared=0, width=1, depth=1, levels=1)

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, and levels of experts on it."""
        counts = by_task("experts", self.experts, tasks)
        form = Form(
            counts=counts, shared=self.shared, width=self.width, depth=self.depth,
            levels=self.levels, reads="all", residual=True,
        )  # fmt: skip
        return Levels(encoder, tasks, form)
