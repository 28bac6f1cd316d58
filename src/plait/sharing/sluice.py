r"""Towers in subspaces that are mixed after each layer, and layers that are mixed before the head.

With x = encoder(inputs) [B, d] and h̃_t^0 = x, at layer l, for tasks t and j and subspaces k and i,
each a K-th of a tower's width:

    h_t^l = ReLU(W_t^l h̃_t^{l−1} + b_t^l) = [h_{t,1}^l; …; h_{t,K}^l]       [B, width]
    h̃_{t,k}^l = Σ_{j,i} α^l_{tk,ji} h_{j,i}^l

and the features of task t are Σ_l β_{t,l} h̃_t^l. The units α^l [T·K, T·K] start with ``own`` on the
diagonal and the rest of 1 spread over a row; β [T, L] with ``last`` for the last layer and the rest
spread. The penalty is ``orthogonal`` · Σ ‖W_k W_iᵀ‖²_F over layers, towers and pairs k < i of the
rows W_k [width/K, d] that give the subspaces: what is shared and what is not, apart. Every task
trains every tower. Parameters beside the encoder, with T tasks and L = ``depth`` layers:
T·((d+1)·width + (L−1)·(width+1)·width) + L·(T·K)² + T·L.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"depth": 0}}},
    ...     sharing=Sluice(width=6, depth=2, subspaces=2), seed=0,
    ... )
    >>> towers, units = 2 * (4 * 6 + 7 * 6), 2 * 4**2
    >>> sum(p.numel() for p in network.trunk.parameters()) == towers + units + 2 * 2
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from plait.batch import Parts, Records
from plait.method import Card, Law, Paper
from plait.networks.base import Encoder, Features, MakeEncoder, Sharing, TaskBank, Trunk
from plait.sharing.base import Experts, at_least
from plait.sharing.parallel import Parallel, imbalanced
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Sluice(Sharing):
    """Sluice networks; ``own`` and ``last``: shares of the own subspace and the last layer."""

    width: int = 64
    depth: int = 2
    subspaces: int = 2
    own: float = 0.9
    last: float = 0.9
    orthogonal: float = 0.0

    card = Card(
        family="sharing",
        name="sluice",
        summary="Towers whose subspaces are mixed after each layer, and a mixture of the layers.",
        paper=Paper(
            title="Latent Multi-task Architecture Learning",
            authors="Sebastian Ruder and Joachim Bingel and Isabelle Augenstein and Anders Søgaard",
            year=2019,
            venue="AAAI",
            url="https://doi.org/10.1609/aaai.v33i01.33014822",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "feed-forward towers on one encoder in place of recurrent layers",
            "subspaces follow the formula; the authors' code interleaves units",
        ),
        exceptions={"more_tasks_change_no_output": "every task mixes the towers of all tasks"},
    )

    def __post_init__(self) -> None:
        at_least(self, width=1, depth=1, subspaces=1, orthogonal=0)
        if self.width % self.subspaces:
            raise ValueError(
                f"width must be a multiple of subspaces ({self.subspaces}), got {self.width}"
            )

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, the towers with their units, and the weights of the layers."""
        return _Sluice(encoder(), tasks, self)


class _Sluice(Parallel):
    def __init__(self, encoder: Encoder, tasks: TaskSet, settings: Sluice) -> None:
        start = imbalanced(len(tasks) * settings.subspaces, settings.own)
        units = [_Unit(start, settings.subspaces) for _ in range(settings.depth)]
        super().__init__(encoder, tasks, settings.width, units)
        self.subspaces, self.orthogonal = settings.subspaces, settings.orthogonal
        self.beta = TaskBank(tasks.names)
        self.beta.add("weight", settings.depth, start=partial(_last, share=settings.last))

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        states, beta = torch.stack(self.states(parts)), self.beta.stack("weight")
        found = {}
        for group, records in asked.items():
            every = torch.stack([self.of(state, group, records).records for state in states], 1)
            share = beta.index_select(0, self.positions(group, records))
            found[group] = Features(torch.bmm(share.unsqueeze(1), every).squeeze(1))
        told = self.orthogonal > 0 and self.training
        return found, {"orthogonal": self.orthogonal * self._overlap()} if told else {}

    def _overlap(self) -> Tensor:
        """Σ ‖W_k W_iᵀ‖²_F over layers, towers and pairs k < i."""
        found = []
        for layer in cast("list[Experts]", list(self.layers)):
            (bank,) = layer.layers
            weight = cast("TaskBank", bank).stack("weight")
            pieces = weight.view(len(weight), self.subspaces, -1, weight.shape[2])
            for k in range(self.subspaces):
                rest = pieces[:, k + 1 :].flatten(1, 2)
                found.append(torch.bmm(pieces[:, k], rest.transpose(1, 2)).square().sum())
        return torch.stack(found).sum()


class _Unit(nn.Module):
    def __init__(self, start: Tensor, subspaces: int) -> None:
        super().__init__()
        self.subspaces = subspaces
        self.alpha = nn.Parameter(start.clone())

    def forward(self, states: Tensor) -> Tensor:
        """[B, T, width] → [B, T, width]."""
        rows, tasks, width = states.shape
        pieces = states.reshape(rows, tasks * self.subspaces, width // self.subspaces)
        return torch.matmul(self.alpha, pieces).view(rows, tasks, width)


def _last(slice_: Tensor, generator: torch.Generator, share: float) -> None:  # noqa: ARG001
    """Most for the last layer."""
    slice_.fill_((1 - share) / max(len(slice_) - 1, 1))
    slice_[-1] = share if len(slice_) > 1 else 1.0
