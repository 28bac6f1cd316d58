r"""In every second block experts in place of the feed-forward part, chosen for each token and task.

For a token x [d] of a row of task t, with E experts, each d → h → d with the block's activation:

    p = softmax(W_t x + ε) [E],    y = Σ_{e among the K greatest of p} p_e expert_e(x)

W_t [E, d], no bias; the p_e of the chosen are not made to sum to 1; ε ~ N(0, (noise/E)²) in
training. Only the K chosen experts run for a token, so a task is served by its own pathway.
``router`` conditioned has one W [E, d + size] for all tasks, on [x; v_t] with v_t = norm(V₂ GELU(V₁
one-hot(t))). ``noise`` learnt: a standard deviation of softplus(W'_t x) + 0.01, and p is the
softmax over the K chosen. In training a penalty keeps the experts in use, for each task and part

    balance · (CV²(Σ_tokens p) + CV²(Σ_tokens load)),    CV² = variance / (mean² + 10⁻¹⁰)

where the load counts tokens, or with learnt noise how likely each expert is among the K. Parameters
for each part: E·(2·d·h + h + d) and T·E·d, beside those of the rest.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="day"), Task(name="night")])
    >>> network = build_network(
    ...     inputs={"image.i": Input(key="image.i", type="image", shape=(1, 8, 8))}, tasks=tasks,
    ...     encoder={"image": {"vit": {"width": 8, "depth": 2, "heads": 2}}},
    ...     sharing=M3Vit(experts=6, top=2), seed=0,
    ... )
    >>> part = network.encoder.stems["image"].nets[0].blocks[1].mlp
    >>> sum(p.numel() for p in part.parameters()) == 6 * (2 * 8 * 8 + 8 + 8) + 2 * 6 * 8 + 2 * 8
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from plait.kinds import Place
from plait.method import Card, Law, Paper
from plait.networks.base import MakeEncoder, Sharing, TaskBank, Trunk, uniform
from plait.networks.rows import RowTasks
from plait.sharing.base import at_least
from plait.sharing.pathways import (
    Load,
    Paths,
    Stack,
    TokenGate,
    feed_forwards,
    replace_parts,
    uneven,
)
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class M3Vit(Sharing):
    """M³ViT; ``ratio``: an expert's hidden width over the block's, ``every``: which blocks.

    ``sites`` names modules whose feed-forward parts are meant, where not every second block's.
    """

    experts: int = 16
    top: int = 4
    ratio: float = 1.0
    every: int = 2
    router: Literal["own", "conditioned"] = "own"
    size: int = 64
    noise: float | Literal["learnt"] = 0.0
    balance: float = 0.01
    sites: Sequence[str] = ()
    place: ClassVar[Place] = "token"

    card = Card(
        family="sharing",
        name="m3vit",
        summary="Experts in every second block, of which each token takes few, by its task.",
        paper=Paper(
            title="M³ViT: Mixture-of-Experts Vision Transformer for Efficient Multi-task Learning "
            "with Model-Accelerator Co-design",
            authors="Hanxue Liang and Zhiwen Fan and Rishov Sarkar and Ziyu Jiang and Tianlong "
            "Chen and Kai Zou and Yu Cheng and Cong Hao and Zhangyang Wang",
            year=2022,
            venue="NeurIPS",
            url="https://arxiv.org/abs/2210.14793",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT}),
        deviations=(
            "fixed noise: the load counts tokens; the authors' compares probabilities with logits",
            "the balance is of a batch, or of a micro-batch where one is cut",
        ),
    )

    def __post_init__(self) -> None:
        at_least(self, experts=1, top=1, every=1, size=1, balance=0)
        if self.top > self.experts:
            raise ValueError(f"top is {self.top} of {self.experts} experts")
        if self.ratio <= 0:
            raise ValueError(f"ratio must be greater than 0, got {self.ratio}")
        if self.router not in ("own", "conditioned"):
            raise ValueError(f"router must be own or conditioned, got {self.router!r}")
        if self.noise != "learnt" and (isinstance(self.noise, str) or self.noise < 0):
            raise ValueError(f"noise must be at least 0, or learnt, got {self.noise!r}")

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder with experts in its blocks."""
        made, rows = encoder(), RowTasks()
        parts = feed_forwards(made, self.sites)
        if not self.sites:
            parts = parts[self.every - 1 :: self.every]
        if not parts:
            raise ValueError(f"the encoder has no block number {self.every}; set every: 1")
        conditioned = self.router == "conditioned"

        def gate(number: int, width: int) -> TokenGate:
            return TokenGate(
                tasks, self.experts, width, rows, number,
                top=self.top, rule="chosen" if self.noise == "learnt" else "all",
                noise=self.noise, shared=conditioned, vectors=self.size if conditioned else 0,
            )  # fmt: skip

        replace_parts(parts, rows, self.top, gate, self._stack)
        vectors = _Vectors(tasks, self.size) if conditioned else None
        return Paths(made, tasks, rows, partial(_balance, strength=self.balance), vectors)

    def _stack(self, linear: nn.Linear, inner: bool) -> Stack:
        width = linear.in_features if inner else linear.out_features
        hidden = max(1, round(self.ratio * width))
        return Stack.fresh(self.experts, *((width, hidden) if inner else (hidden, width)))


def _balance(load: Load, strength: float) -> Tensor:
    """Summed over tasks; those without a token have sums of 0, and so nothing uneven."""
    return strength * (uneven(load.gates) + uneven(load.taken)).sum()


class _Vectors(nn.Module):
    """What gates read of tasks: two layers on their one-hot vectors, and a norm."""

    def __init__(self, tasks: TaskSet, size: int) -> None:
        super().__init__()
        self.first = TaskBank(tasks.names)
        self.first.add("weight", size, start=uniform(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.rest = nn.Sequential(nn.GELU(), nn.Linear(size, size), nn.LayerNorm(size))

    def forward(self, tasks: Tensor) -> Tensor:
        """Positions [t] → [t, size]."""
        found: Tensor = self.rest(self.first.stack("weight")[tasks] + self.bias)
        return found
