r"""An encoder for each task beside one for all, mixed by two numbers that each task learns.

With the public encoder f_s and task t's private one f_t, all of one kind, the features of task t
are

    h_t = α_t1 f_s(x) + α_t2 f_t(x)                  [B, d]

where α_t [2] is softmax(a_t) of a_t [2], starting even; by ``gate`` sigmoid σ(a_t) of a_t [2],
starting at 0.5; ``hard`` takes one of the two. That gate has one number a_t, starting at 0: in
training α_t is the one-hot of the greater of log(1 − σ(a_t)) + noise and log σ(a_t) + noise, its
gradient that of the softmax over them at the temperature 0.1; in evaluation it is (0, 1) where
σ(a_t) ≥ ½, else (1, 0). The noise is Gumbel's, one draw a step for all rows of a task.

A private encoder starts as the task's network among ``separate`` ones does, so that α_t = (0, 1) is
that network exactly: a task need not lose by sharing. Parameters, with N those of an encoder:
(T + 1)·N + 2·T, with the hard gate (T + 1)·N + T.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"width": 5, "depth": 1}}},
    ...     sharing=Dsmtl(), seed=0,
    ... )
    >>> sum(p.numel() for p in network.trunk.parameters()) == 3 * (3 + 1) * 5 + 2 * 2
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from plait.batch import Parts, Records
from plait.method import Card, Law, Paper
from plait.networks.base import (
    Encoder,
    Features,
    MakeEncoder,
    Sharing,
    TaskBank,
    Trunk,
    zeros,
)
from plait.networks.side_by_side import SideBySideTrunk
from plait.sharing.base import gumbel, straight
from plait.task import TaskSet

WARMTH = 0.1  # of the hard gate, in training


@dataclass(frozen=True, kw_only=True)
class Dsmtl(Sharing):
    """Safe multi-task learning; ``gate``: the numbers of a task sum to 1, are free, or choose."""

    gate: Literal["softmax", "sigmoid", "hard"] = "softmax"

    card = Card(
        family="sharing",
        name="dsmtl",
        summary="An encoder for each task and one for all, mixed by what each task learns.",
        paper=Paper(
            title="Deep Safe Multi-Task Learning",
            authors="Zhixiong Yue and Feiyang Ye and Yu Zhang and Christy Liang and Ivor W. Tsang",
            year=2021,
            venue="arXiv:2111.10601",
            url="https://arxiv.org/abs/2111.10601",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "all is learnt at once; private encoders are not trained alone first",
            "one head for each task on the mixed features; outputs of two heads are not mixed",
            "the compact network that drops encoders is not searched for",
        ),
    )

    def __post_init__(self) -> None:
        if self.gate not in ("softmax", "sigmoid", "hard"):
            raise ValueError(f"gate must be softmax, sigmoid or hard, got {self.gate!r}")

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The public encoder, a private one for each task, and the gates.

        Raises ``ValueError`` for transformers and modules of the user's, which cannot be stacked.
        """
        own = SideBySideTrunk([encoder(name) for name in tasks.names], tasks)
        return _Dsmtl(encoder(), own, tasks, self.gate)


class _Dsmtl(Trunk):
    def __init__(
        self, public: Encoder, private: SideBySideTrunk, tasks: TaskSet, gate: str
    ) -> None:
        super().__init__(tasks, public.width)
        self.public, self.private, self.gate = public, private, gate
        self.gates = TaskBank(tasks.names)
        if gate == "hard":
            self.gates.add("alpha", 1, start=zeros)
        else:
            self.gates.add("alpha", 2, start=_half)

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        public = self.public(parts)
        private, _ = self.private(parts, asked)
        noise, found = self._noise(), {}
        for group, records in asked.items():
            task = self.positions(group, records)
            share = self._shares(task, noise)
            common = public.index_select(0, records.rows)
            mixed = share[:, :1] * common + share[:, 1:] * private[group].records
            found[group] = Features(mixed)
        return found, {}

    def _noise(self) -> Tensor | None:
        """[T, 2], where there is any."""
        if self.gate != "hard" or not self.training:
            return None
        base = int(torch.randint(2**62, ()).item())
        like = self.gates.stack("alpha").detach().expand(-1, 2)
        return gumbel(like, self.tasks.names, base)

    def _shares(self, task: Tensor, noise: Tensor | None) -> Tensor:
        """[N, 2]: what records, of tasks [N], take of the public and of their private encoder."""
        alpha = self.gates.stack("alpha").index_select(0, task)
        if self.gate == "softmax":
            return alpha.softmax(1)
        if self.gate == "sigmoid":
            return alpha.sigmoid()
        if noise is None:
            own = (alpha >= 0).to(alpha)
            return torch.cat([1 - own, own], 1)
        logits = torch.cat([F.logsigmoid(-alpha), F.logsigmoid(alpha)], 1)
        return straight(logits + noise.index_select(0, task), WARMTH)


def _half(slice_: Tensor, generator: torch.Generator) -> None:  # noqa: ARG001
    slice_.fill_(0.5)
