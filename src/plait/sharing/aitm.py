r"""A tower for each task, and information handed on from each task to those after it.

With x = encoder(inputs) [B, d], q_t = tower_t(x) [B, width], and s the task before t:

    z_t = q_t where no task comes before, else      p_t = ReLU(U_t z_s + b_t)
    z_t = Σ_{u of q_t, p_t} softmax_u(⟨u W_Q, u W_K⟩ / √width) · u W_V

and z_t are the features of task t: its tower decides, by attention over two vectors, how much of
what the step before has learnt it takes over. W_Q, W_K and W_V [width, width] are the same for all
steps. A tower has ``depth`` layers with ReLU. The loss gains, over rows and chained tasks,
calibrate · Σ max(σ(l_t) − σ(l_s), 0) / B: what comes after is not the more probable. Parameters
beside the encoder, with T tasks of which C come after another:
T·((d+1)·width + (depth−1)·(width+1)·width) + C·(width+1)·width + 3·width².

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy", after="click")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"depth": 0}}},
    ...     sharing=Aitm(width=5, depth=1), seed=0,
    ... )
    >>> sum(p.numel() for p in network.trunk.parameters()) == 2 * 4 * 5 + 6 * 5 + 3 * 25
    True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from plait.batch import Parts, Records
from plait.method import Card, Law, Need, Paper
from plait.networks.base import Bank, Encoder, Features, MakeEncoder, Sharing, Trunk, uniform
from plait.networks.chains import Chain
from plait.sharing.base import at_least, own_rows, present
from plait.sharing.towers import Towers, links_of
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Aitm(Sharing):
    """Adaptive information transfer along the tasks' ``after``, or along the ``order`` given.

    Where the later tasks of an ``order`` need not be the rarer ones, set ``calibrate`` to 0.
    """

    width: int = 64
    depth: int = 2
    calibrate: float = 0.6
    order: Sequence[str] = ()

    card = Card(
        family="sharing",
        name="aitm",
        summary="Each task takes over, by attention, what the task before it has learnt.",
        paper=Paper(
            title="Modeling the Sequential Dependence among Audience Multi-step Conversions with "
            "Multi-task Learning in Targeted Display Advertising",
            authors="Dongbo Xi and Zhen Chen and Peng Yan and Yinger Zhang and Yongchun Zhu and "
            "Fuzhen Zhuang and Yu Chen",
            year=2021,
            venue="KDD",
            url="https://doi.org/10.1145/3447548.3467071",
        ),
        needs=frozenset({Need.ORDERED}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=("no dropout in the towers",),
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"order": "values"}

    def __post_init__(self) -> None:
        at_least(self, width=1, depth=1, calibrate=0)

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, the towers and transfers on it, and the calibrator after the heads."""
        chain = Calibrated(tasks, links_of(tasks, self.order), self.calibrate)
        return _Aitm(encoder(), tasks, self, chain)


class _Aitm(Trunk):
    def __init__(self, encoder: Encoder, tasks: TaskSet, settings: Aitm, chain: Chain) -> None:
        super().__init__(tasks, settings.width)
        self.encoder, self.chain, self.steps = encoder, chain, None
        size = (encoder.width, settings.width, settings.depth)
        self.towers = Towers(tasks, *size, chain.trainers)
        # Those with fewer tasks before them first, so that each finds the state before it.
        chained = sorted(
            (n for n in tasks.names if chain.before[n]), key=lambda n: len(chain.before[n])
        )
        before = {name: chain.before[name][-1] for name in chained}
        self.before = {tasks.position[t]: tasks.position[s] for t, s in before.items()}
        if chained:
            self.steps = _Steps(chained, settings.width, chain)

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        task = {group: self.positions(group, records) for group, records in asked.items()}
        kept = present(list(task.values()), len(self.tasks))
        towers = self.towers(self.encoder(parts), kept)
        there = range(len(self.tasks)) if kept is None else kept
        state = dict(zip(there, towers.unbind(0), strict=True))
        for place, (t, s) in enumerate(self.before.items()):
            if self.steps is not None and t in state:
                state[t] = self.steps(place, state[t], state[s])
        states = torch.stack([state[t] for t in there])
        return {g: own_rows(states, kept, asked[g], task[g]) for g in asked}, {}


class _Steps(nn.Module):
    """What each chained task takes over from the one before it."""

    def __init__(self, names: Sequence[str], width: int, chain: Chain) -> None:
        super().__init__()
        self.transfer = Bank(names, trainers=[chain.trainers[name] for name in names])
        self.transfer.add("weight", width, width, start=uniform(width))
        self.transfer.add("bias", width, start=uniform(width))
        self.attention = Bank([None], trainers=[frozenset(names)])
        for name in ("query", "key", "value"):
            self.attention.add(name, width, width, start=_normal)

    def forward(self, place: int, own: Tensor, before: Tensor) -> Tensor:
        """z_t [B, width] of q_t and z_s."""
        weight, bias = (self.transfer.stack(name)[place] for name in ("weight", "bias"))
        both = torch.stack([own, nn.functional.linear(before, weight, bias).relu()], 1)
        query, key, value = (both @ self.attention.stack(n)[0] for n in ("query", "key", "value"))
        scores = (query * key).sum(2) / both.shape[2] ** 0.5
        return torch.bmm(scores.softmax(1).unsqueeze(1), value).squeeze(1)


class Calibrated(Chain):
    """Outputs as they are; a penalty where a task is more probable than the one before it."""

    def __init__(
        self, tasks: TaskSet, before: Mapping[str, Sequence[str]], strength: float
    ) -> None:
        super().__init__(tasks, before)
        self.strength = strength

    def penalties(self, steps: Tensor, rows: int) -> dict[str, Tensor]:
        """The calibrator, by rows of the batch."""
        if not self.strength:
            return {}
        own, before = steps[:, 0].sigmoid(), steps[:, 1].sigmoid()
        return {"calibrate": self.strength * (own - before).relu().sum() / rows}


def _normal(slice_: Tensor, generator: torch.Generator) -> None:
    slice_.normal_(0, 0.01, generator=generator)
