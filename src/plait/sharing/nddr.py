r"""A tower for each task, fused after each layer by a linear map of all towers' channels.

With x = encoder(inputs) [B, d] and x̃_t^0 = x, at layer l, for tasks t and j:

    x_t^l = ReLU(W_t^l x̃_t^{l−1} + b_t^l)                       [B, width]
    x̃_t^l = ReLU(Σ_j M_tj^l x_j^l + c_t^l)

and x̃_t^L are the features of task t. M^l [T, T, width, width], a 1×1 convolution over the towers'
concatenated channels, starts as ``own`` times the identity for t = j and (1 − own)/(T − 1) times it
beside, c^l at 0. Every task trains every tower. Parameters beside the encoder, with T tasks and
``depth`` layers: T·((d+1)·width + (depth−1)·(width+1)·width) + depth·T·(T·width + 1)·width.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"depth": 0}}},
    ...     sharing=Nddr(width=5, depth=2), seed=0,
    ... )
    >>> towers, fusions = 2 * (4 * 5 + 6 * 5), 2 * 2 * (2 * 5 + 1) * 5
    >>> sum(p.numel() for p in network.trunk.parameters()) == towers + fusions
    True
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plait.method import Card, Law, Paper
from plait.networks.base import MakeEncoder, Sharing, Trunk
from plait.sharing.base import at_least
from plait.sharing.parallel import Parallel, imbalanced
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Nddr(Sharing):
    """Neural discriminative dimensionality reduction; ``own``: share of the own tower at first."""

    width: int = 64
    depth: int = 2
    own: float = 0.9

    card = Card(
        family="sharing",
        name="nddr",
        summary="A tower for each task, all channels of all towers fused after each layer.",
        paper=Paper(
            title="NDDR-CNN: Layerwise Feature Fusing in Multi-Task CNNs by Neural Discriminative "
            "Dimensionality Reduction",
            authors="Yuan Gao and Jiayi Ma and Mingbo Zhao and Wei Liu and Alan L. Yuille",
            year=2019,
            venue="CVPR",
            url="https://doi.org/10.1109/CVPR.2019.00332",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "no batch norm in the fusions, as in the authors' code unless it is switched on there",
            "the towers stand on one encoder; an encoder of depth 0 is the paper's",
            "the fusions learn at the rate of all other weights, not at 100 times it",
            "the features are the last layer's, without the variant that joins those of all",
        ),
        exceptions={"more_tasks_change_no_output": "every task fuses the towers of all tasks"},
    )

    def __post_init__(self) -> None:
        at_least(self, width=1, depth=1)

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, and towers with fusions on it."""
        fusions = [_Fusion(imbalanced(len(tasks), self.own), self.width) for _ in range(self.depth)]
        return Parallel(encoder(), tasks, self.width, fusions)


class _Fusion(nn.Module):
    def __init__(self, share: Tensor, width: int) -> None:
        super().__init__()
        self.tasks, self.width = len(share), width
        self.weight = nn.Parameter(torch.kron(share, torch.eye(width)))
        self.bias = nn.Parameter(torch.zeros(self.tasks * width))

    def forward(self, states: Tensor) -> Tensor:
        """[B, T, width] → [B, T, width]."""
        fused = nn.functional.linear(states.flatten(1), self.weight, self.bias)
        return fused.relu().view(states.shape)
