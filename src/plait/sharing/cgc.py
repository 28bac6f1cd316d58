r"""Experts of each task and shared ones, mixed for each task by a gate of its own.

Features of task t, with x = encoder(inputs) [B, d]; e runs over the experts of t and shared ones:

    f_t(x) = Σ_e softmax(W_t x + b_t)_e · expert_e(x)

Each expert has ``depth`` layers with ReLU, d → width. No task trains another's experts. Parameters
beside the encoder, with E_t and E_s the experts of a task and the shared ones:
(E_s + Σ_t E_t)·((d+1)·width + (depth−1)·(width+1)·width) + Σ_t (d+1)(E_t+E_s).

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"depth": 0}}},
    ...     sharing=Cgc(experts={"click": 3}, shared=2, width=5), seed=0,
    ... )
    >>> sum(p.numel() for p in network.trunk.parameters()) == 6 * 4 * 5 + 4 * (5 + 3)
    True
    >>> len(network.shared_parameters())  # weight and bias of the shared experts
    2
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
class Cgc(Sharing):
    """Customised gate control; ``experts`` of each task, or of those named (others 1)."""

    experts: int | Mapping[str, int] = 1
    shared: int = 2
    width: int = 64
    depth: int = 1

    card = Card(
        family="sharing",
        name="cgc",
        summary="Task-specific and shared experts, mixed by a gate for each task.",
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
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"experts": "keys"}

    def __post_init__(self) -> None:
        at_least(self, experts=0, shared=0, width=1, depth=1)

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, and one level of experts on it."""
        counts = by_task("experts", self.experts, tasks)
        form = Form(
            counts=counts, shared=self.shared, width=self.width, depth=self.depth, levels=1,
            reads="own",
        )  # fmt: skip
        return Levels(encoder, tasks, form)
