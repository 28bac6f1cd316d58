r"""A tower for each task whose layers, like what they read, are scaled by gates on prior knowledge.

A gate unit is GU(v) = γ·σ(W' ReLU(W v + b) + b'), between 0 and γ. With x = encoder(inputs) [B, d],
the inputs that tell the ``domain`` of a row encoded as e_D and those that are its ``prior``
knowledge (user, item, author) as e_P, and sg() what passes no gradient on:

    x' = GU([e_D; sg(x)]) ⊙ x                                 embedding, one gate for all tasks
    h_t^0 = x',    h_t^l = ReLU(W_t^l h_t^{l−1} + b_t^l) ⊙ GU_t^l([e_P; sg(x')])      [B, width]

and h_t^L, L = ``depth``, are the features of task t. A gate unit is as wide inside as outside.
Parameters beside the encoder, with D and P the widths of e_D and e_P: (D + d + 1)·d + (d + 1)·d,
and for each task and layer (d_l + 1)·width + (P + d + 1)·width + (width + 1)·width, with d_l = d in
the first layer and width in those after it.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,)),
    ...           "vector.user": Input(key="vector.user", type="vector", shape=(2,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"depth": 0}}},
    ...     sharing=Pepnet(prior=["user"], width=4, depth=1), seed=0,
    ... )
    >>> embedding, layer = 6 * 5 + 6 * 5, 6 * 4 + (2 + 5 + 1) * 4 + 5 * 4
    >>> sum(p.numel() for p in network.trunk.parameters()) == embedding + 2 * layer
    True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from plait.batch import Parts, Records
from plait.method import Card, Law, Paper
from plait.networks.base import Encoder, Features, MakeEncoder, Sharing, Trunk
from plait.sharing.base import Experts, at_least, own_rows, present
from plait.sharing.beside import chosen, read, width_of
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Pepnet(Sharing):
    """Personalised embedding and parameters; ``domain``, ``prior``: inputs that the gates read."""

    domain: Sequence[str] = ()
    prior: Sequence[str] = ()
    width: int = 64
    depth: int = 2
    gamma: float = 2.0

    card = Card(
        family="sharing",
        name="pepnet",
        summary="A tower for each task, scaled layer by layer by gates on who and what a row is.",
        paper=Paper(
            title="PEPNet: Parameter and Embedding Personalized Network for Infusing with "
            "Personalized Prior Information",
            authors="Jianxin Chang and Chenbin Zhang and Yiqun Hui and Dewei Leng and Yanan Niu "
            "and Yang Song and Kun Gai",
            year=2023,
            venue="KDD",
            url="https://doi.org/10.1145/3580305.3599884",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "where no domain or prior is named the gates read the encoder's output alone",
            "the embedding is the encoder's output; an encoder of depth 0 is the paper's",
            "no dropout in the towers",
        ),
    )

    def __post_init__(self) -> None:
        at_least(self, width=1, depth=1, gamma=1e-6)

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, the gate on its output, and the gated towers."""
        return _Pepnet(encoder(), tasks, self)


class _Pepnet(Trunk):
    def __init__(self, encoder: Encoder, tasks: TaskSet, settings: Pepnet) -> None:
        super().__init__(tasks, settings.width)
        self.encoder, self.gamma = encoder, settings.gamma
        self.domain = chosen("domain", settings.domain, encoder, tasks)
        self.prior = chosen("prior", settings.prior, encoder, tasks)
        d, width = encoder.width, settings.width
        self.embedding = Experts([None], width_of(encoder, self.domain) + d, d, 2, linear=True)
        prior = width_of(encoder, self.prior) + d
        inside = [d, *[width] * (settings.depth - 1)]
        self.layers = nn.ModuleList(
            Experts(tasks.names, each, width, specific=True) for each in inside
        )
        self.gates = nn.ModuleList(
            Experts(tasks.names, prior, width, 2, specific=True, linear=True) for _ in inside
        )

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        task = {group: self.positions(group, records) for group, records in asked.items()}
        kept = present(list(task.values()), len(self.tasks))
        x = self.encoder(parts)
        told = torch.cat([*read(self.encoder, self.domain, parts, x), x.detach()], 1)
        x = x * self._scaled(self.embedding(told).squeeze(1))
        prior = torch.cat([*read(self.encoder, self.prior, parts, x), x.detach()], 1)
        state = x
        for layer, gate in zip(
            cast("Sequence[Experts]", self.layers),
            cast("Sequence[Experts]", self.gates),
            strict=True,
        ):
            scale = self._scaled(gate(prior, kept))
            state = (layer(state, kept) * scale).transpose(0, 1)
        return {g: own_rows(state, kept, asked[g], task[g]) for g in asked}, {}

    def _scaled(self, logits: Tensor) -> Tensor:
        return self.gamma * logits.sigmoid()
