r"""Shared experts of which each task selects at most k, by gates that end exactly sparse.

E experts are numbered by m = ⌈log₂ E⌉ bits. A task has k selectors, each of m numbers z; selector i
gives expert e

    r_i(e) = Π_b S(z_ib) if bit b of e is 1, else 1 − S(z_ib),       b = 1…m
    S(z) = 0 for z ≤ −γ/2,  1 for z ≥ γ/2,  else −2z³/γ³ + 3z/(2γ) + ½

and the features of task t are f_t(x) = Σ_e Σ_i softmax(w_t)_i r_i(e) · expert_e(x), with x =
encoder(inputs) [B, d]. ``by`` task z [T, k, m] and w [T, k] are parameters; by row they are linear
maps of x for each task. Penalties, summed over selectors (by row: the mean over rows): ``entropy``
times −Σ_e r log(r + 1e-6), and where E is no power of two 1/Σ_e r, which keeps selectors away from
numbers that are no expert's. Parameters beside the encoder: E·((d+1)·width +
(depth−1)·(width+1)·width) + T·k·(m+1), the latter times d + 1 by row.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"depth": 0}}},
    ...     sharing=DSelectK(experts=4, chosen=2, width=5), seed=0,
    ... )
    >>> sum(p.numel() for p in network.trunk.parameters()) == 4 * 4 * 5 + 2 * 2 * (2 + 1)
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from plait.batch import Parts, Records
from plait.method import Card, Law, Paper
from plait.networks.base import Encoder, Features, MakeEncoder, Sharing, TaskBank, Trunk
from plait.networks.routing import routed_linear
from plait.sharing.base import Experts, Mixture, at_least, mix
from plait.task import TaskSet

Chosen = tuple[Tensor, Tensor]  # selectors' outputs r [N, k, E] and their weights [N, k]


@dataclass(frozen=True, kw_only=True)
class DSelectK(Sharing):
    """DSelect-k gates; ``chosen``: the most experts (k) that a task reads in the end."""

    experts: int = 8
    chosen: int = 2
    width: int = 64
    depth: int = 1
    by: Literal["task", "row"] = "task"
    gamma: float = 1.0
    entropy: float = 0.0

    card = Card(
        family="sharing",
        name="dselect_k",
        summary="Shared experts of which each task selects at most k, by smooth gates.",
        paper=Paper(
            title="DSelect-k: Differentiable Selection in the Mixture of Experts with Applications "
            "to Multi-Task Learning",
            authors="Hussein Hazimeh and Zhe Zhao and Aakanksha Chowdhery and Maheswaran "
            "Sathiamoorthy and Yihua Chen and Rahul Mazumder and Lichan Hong and Ed H. Chi",
            year=2021,
            venue="NeurIPS",
            url="https://arxiv.org/abs/2106.03760",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "penalties by row are the mean over rows, where the authors' code sums them",
            "the experts read the encoder's output; an encoder of depth 0 is the paper's",
        ),
    )

    def __post_init__(self) -> None:
        at_least(self, experts=2, chosen=1, width=1, depth=1, gamma=1e-6, entropy=0)
        if self.by not in ("task", "row"):
            raise ValueError(f"by must be task or row, got {self.by!r}")
        if self.chosen > self.experts:
            raise ValueError(f"chosen must be at most experts ({self.experts}), got {self.chosen}")

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, the experts on it, and selectors for each task."""
        return _DSelectK(encoder(), tasks, self)


class _DSelectK(Trunk):
    def __init__(self, encoder: Encoder, tasks: TaskSet, settings: DSelectK) -> None:
        super().__init__(tasks, settings.width)
        self.encoder = encoder
        self.experts = Experts(settings.experts, encoder.width, settings.width, settings.depth)
        self.selectors = Selectors(tasks, settings, encoder.width)

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        x = self.encoder(parts)
        outputs = self.experts(x)
        found, penalties = {}, []
        for group, records in asked.items():
            task, own = self.positions(group, records), Features(x, records.rows)
            chosen = self.selectors.chosen(own, task)
            gates = self.selectors(own, task, chosen)
            found[group] = Features(mix(outputs, gates, records.rows, task))
            penalties.append(self.selectors.penalty(chosen[0], task, x.shape[0]))
        told = self.selectors.penalised and self.training and penalties
        return found, {"selectors": torch.stack(penalties).sum()} if told else {}


class Selectors(Mixture):
    """The selectors of each task."""

    codes: Tensor

    def __init__(self, tasks: TaskSet, settings: DSelectK, inside: int) -> None:
        experts = settings.experts
        super().__init__(tasks.names, [range(experts)] * len(tasks), [None] * experts)
        self.bits, self.k = (experts - 1).bit_length(), settings.chosen
        self.gamma, self.entropy, self.by_row = (
            settings.gamma,
            settings.entropy,
            settings.by == "row",
        )
        self.whole = experts == 2**self.bits
        self.penalised = self.entropy > 0 or not self.whole
        codes = [[e >> bit & 1 for bit in reversed(range(self.bits))] for e in range(experts)]
        self.register_buffer("codes", torch.tensor(codes, dtype=torch.bool), persistent=False)
        self.bank = TaskBank(tasks.names)
        maps = (inside,) if self.by_row else ()
        near = partial(_uniform, bound=settings.gamma / 100)
        for name, size, start in (
            ("z", self.k * self.bits, near),
            ("w", self.k, partial(_uniform, bound=0.05)),
        ):
            self.bank.add(name, size, *maps, start=start)
            if self.by_row:
                self.bank.add(f"{name}_bias", size, start=start)

    def forward(self, features: Features, task: Tensor, chosen: Chosen | None = None) -> Tensor:
        """The weights [N, E] of records of tasks [N]."""
        outputs, weights = self.chosen(features, task) if chosen is None else chosen
        return torch.bmm(weights.unsqueeze(1), outputs).squeeze(1)

    def chosen(self, features: Features, task: Tensor) -> Chosen:
        """What the selectors of the records' tasks give to each expert, and their weights."""
        z, w = self._numbers("z", features, task), self._numbers("w", features, task)
        step = self._step(z.view(-1, self.k, 1, self.bits))
        return torch.where(self.codes, step, 1 - step).prod(3), w.softmax(1)

    def penalty(self, outputs: Tensor, task: Tensor, rows: int) -> Tensor:
        """The sum over the selectors of the tasks that are there; by row, the mean over rows."""
        cost = outputs.new_zeros(outputs.shape[:2])
        if self.entropy:
            cost = cost - self.entropy * (outputs * (outputs + 1e-6).log()).sum(2)
        if not self.whole:
            cost = cost + 1 / outputs.sum(2)
        # By task all records of a task tell the same: each counts as its share of them.
        share = rows if self.by_row else torch.bincount(task, minlength=len(self.readers))[task]
        return (cost.sum(1) / share).sum()

    def _numbers(self, name: str, features: Features, task: Tensor) -> Tensor:
        found = self.bank.stack(name)
        if self.by_row:
            return routed_linear(features, task, found, self.bank.stack(f"{name}_bias"))
        return found.index_select(0, task)

    def _step(self, z: Tensor) -> Tensor:
        """The smooth step from 0 to 1 over a width of gamma."""
        t = (z / self.gamma).clamp(-0.5, 0.5)
        return -2 * t**3 + 1.5 * t + 0.5


def _uniform(slice_: Tensor, generator: torch.Generator, bound: float) -> None:
    slice_.uniform_(-bound, bound, generator=generator)
