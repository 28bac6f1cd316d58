r"""A tower for each task, and units that mix the towers' states after each layer.

With x = encoder(inputs) [B, d] and x̃_t^0 = x, at layer l, for tasks t and j:

    x_t^l = ReLU(W_t^l x̃_t^{l−1} + b_t^l)                [B, width]
    x̃_t^l = Σ_j α_{tj}^l x_j^l

and x̃_t^L are the features of task t. The unit α^l [T, T] is learnt, not normalised; ``by`` channel
it is [T, T, width] and mixes each channel on its own. It starts with ``own`` on the diagonal and
(1 − own)/(T − 1) beside it. Every task trains every tower. Parameters beside the encoder, with T
tasks and ``depth`` layers: T·((d+1)·width + (depth−1)·(width+1)·width) + depth·T², the units' times
width by channel.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"depth": 0}}},
    ...     sharing=CrossStitch(width=5, depth=2), seed=0,
    ... )
    >>> sum(p.numel() for p in network.trunk.parameters()) == 2 * (4 * 5 + 6 * 5) + 2 * 4
    True
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from plait.method import Card, Law, Paper
from plait.networks.base import MakeEncoder, Sharing, Trunk
from plait.sharing.base import at_least
from plait.sharing.parallel import Parallel, imbalanced
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class CrossStitch(Sharing):
    """Cross-stitch units; ``own``: what a task takes of its own tower at the start."""

    width: int = 64
    depth: int = 2
    own: float = 0.9
    by: Literal["layer", "channel"] = "layer"

    card = Card(
        family="sharing",
        name="cross_stitch",
        summary="A tower for each task, their states mixed by learnt units after each layer.",
        paper=Paper(
            title="Cross-stitch Networks for Multi-task Learning",
            authors="Ishan Misra and Abhinav Shrivastava and Abhinav Gupta and Martial Hebert",
            year=2016,
            venue="CVPR",
            url="https://doi.org/10.1109/CVPR.2016.433",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "the towers stand on one encoder; an encoder of depth 0 is the paper's",
            "the units learn at the rate of all other weights, not at 100 to 1000 times it",
            "the towers start at random, not from networks trained on one task each",
        ),
        exceptions={"more_tasks_change_no_output": "every task mixes the towers of all tasks"},
    )

    def __post_init__(self) -> None:
        at_least(self, width=1, depth=1)
        if self.by not in ("layer", "channel"):
            raise ValueError(f"by must be layer or channel, got {self.by!r}")

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, and towers with units on it."""
        start = imbalanced(len(tasks), self.own)
        if self.by == "channel":
            start = start.unsqueeze(2).repeat(1, 1, self.width)
        units = [_Unit(start) for _ in range(self.depth)]
        return Parallel(encoder(), tasks, self.width, units)


class _Unit(nn.Module):
    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.alpha = nn.Parameter(start.clone())

    def forward(self, states: Tensor) -> Tensor:
        """[B, T, width] → [B, T, width]."""
        if self.alpha.ndim == 2:
            return torch.matmul(self.alpha, states)
        return torch.einsum("tjc,bjc->btc", self.alpha, states)
