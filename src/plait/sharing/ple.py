r"""Experts of each task and shared ones, extracted progressively over several levels.

At level l, with unit u one of the tasks 1…T or the shared unit s, and h_u^0 = x = encoder(inputs):

    Y_e = expert_e(h_u^{l−1}),  e of unit u            [B, width]
    h_t^l = Σ_{e of t or s} softmax(W_t h_t^{l−1} + b_t)_e Y_e
    h_s^l = Σ_{all e} softmax(W_s h_s^{l−1} + b_s)_e Y_e      (not at the last level)

and h_t^L are the features of task t. Each expert has ``depth`` layers with ReLU. N = (d+1)·width +
(depth−1)·(width+1)·width with d the width of what is read, E_t and E_s the experts of a task and
the shared ones; parameters beside the encoder:
Σ_l (E_s + Σ_t E_t)·N + Σ_t (d+1)(E_t+E_s), and but for the last level (d+1)(E_s + Σ_t E_t).

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"depth": 0}}},
    ...     sharing=Ple(experts={"click": 2}, shared=1, width=5, levels=2), seed=0,
    ... )
    >>> first = 4 * 4 * 5 + 4 * (3 + 2) + 4 * 4
    >>> second = 4 * 6 * 5 + 6 * (3 + 2)
    >>> sum(p.numel() for p in network.trunk.parameters()) == first + second
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
class Ple(Sharing):
    """Progressive layered extraction; ``experts`` of each task, or of those named (others 1)."""

    experts: int | Mapping[str, int] = 1
    shared: int = 2
    width: int = 64
    depth: int = 1
    levels: int = 2

    card = Card(
        family="sharing",
        name="ple",
        summary="Levels of task-specific and shared experts, mixed by a gate for each task.",
        paper=Paper(
            title="Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model "
            "for Personalized Recommendations",
            authors="Hongyan Tang and Junning Liu and Ming Zhao and Xudong Gong",
            year=2020,
            venue="RecSys",
            url="https://doi.org/10.1145/3383313.3412236",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=("the experts read the encoder's output; an encoder of depth 0 is the paper's",),
        exceptions={
            "more_tasks_change_no_output": "the shared gates read the experts of all tasks",
        },
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"experts": "keys"}

    def __post_init__(self) -> None:
        at_least(self, experts=0, shared=0, width=1, depth=1, levels=1)

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, and levels of experts on it."""
        counts = by_task("experts", self.experts, tasks)
        form = Form(
            counts=counts, shared=self.shared, width=self.width, depth=self.depth,
            levels=self.levels, reads="own",
        )  # fmt: skip
        return Levels(encoder, tasks, form)
