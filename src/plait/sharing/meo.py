r"""Linear maps of feed-forward parts in several copies, merged into one map for each row.

Both linear maps of a part, on their own, have E copies W_e [o, i] and a gate. For the tokens x_b
[L, i] of row b with mean z_b over the tokens that are there:

    s = z_b W_g + ε · (softplus(z_b W_n) + 0.01),    g = softmax over the K greatest of s
    W̄_b = Σ_e g_e W_e,    y_b = x_b W̄_bᵀ + c

W_g, W_n [i, E] start at 0; ε ~ N(0, 1) in training, else 0, and of equal logits the first are
greater. The map's bias c is kept. ``level`` task: z_b = V v_t, a projection [size/reduction, size]
of the task's learnt vector, and one merged map for each task. ``level`` token: before all, x ← x +
U ReLU(D x), i/reduction wide inside, U starting at 0. A penalty in training keeps copies in use:

    balance · (CV²(Σ_b g) + CV²(Σ_b load)),    CV² = variance / (mean² + 10⁻¹⁰)

with the load how likely each copy is among the K. Since the maps are linear, y is what the mixture
of the copies' outputs would be, for one product of the size of a map. Parameters for each map:
E·o·i + 2·i·E; level task instead of i in the gates size/reduction, with the projection.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="mood"), Task(name="topic")])
    >>> items = Input(key="sequence.s", type="sequence", shape=(-1,), sizes=(9,))
    >>> network = build_network(
    ...     inputs={"sequence.s": items}, tasks=tasks,
    ...     encoder={"sequence": {"attention": {"width": 8, "heads": 2}}},
    ...     sharing=Meo(experts=3), seed=0,
    ... )
    >>> part = network.encoder.stems["sequence"].layers[0][0].mlp
    >>> sum(p.numel() for p in part.fc1.parameters()) == 3 * 32 * 8 + 2 * 8 * 3 + 32
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.kinds import Place
from plait.method import Card, Law, Paper
from plait.networks.base import MakeEncoder, Sharing, Trunk, zeros
from plait.networks.positions import real
from plait.networks.routing import followed
from plait.networks.rows import RowTasks
from plait.sharing.base import at_least
from plait.sharing.inside import through_maps
from plait.sharing.pathways import (
    Load,
    Paths,
    Stack,
    TaskVectors,
    TokenGate,
    feed_forwards,
    uneven,
)
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Meo(Sharing):
    """Merging experts into one; ``sites`` names modules whose feed-forward parts are meant."""

    experts: int = 4
    top: int = 2
    level: Literal["sequence", "task", "token"] = "sequence"
    size: int = 768
    reduction: int = 64
    balance: float = 0.01
    sites: Sequence[str] = ()
    place: ClassVar[Place] = "token"

    card = Card(
        family="sharing",
        name="meo",
        summary="Copies of linear maps in feed-forward parts, merged into one for each row.",
        paper=Paper(
            title="Merging Experts into One: Improving Computational Efficiency of Mixture of "
            "Experts",
            authors="Shwai He and Run-Ze Fan and Liang Ding and Li Shen and Tianyi Zhou and "
            "Dacheng Tao",
            year=2023,
            venue="EMNLP",
            url="https://arxiv.org/abs/2310.09832",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT}),
        deviations=(
            "means are over the tokens that are there, not over padding",
            "the map's bias is kept beside the merged copies",
            "level task: the tasks' vectors are learnt, not embeddings of their descriptions",
            "level task: noise is drawn once for a task, which the balance counts once",
            "the balance is of a batch, or of a micro-batch where one is cut",
        ),
    )

    def __post_init__(self) -> None:
        at_least(self, experts=1, top=1, size=1, reduction=1, balance=0)
        if self.top > self.experts:
            raise ValueError(f"top is {self.top} of {self.experts} experts")
        if self.level not in ("sequence", "task", "token"):
            raise ValueError(f"level must be sequence, task or token, got {self.level!r}")

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder with merged maps in its feed-forward parts."""
        made, rows = encoder(), RowTasks()
        parts = feed_forwards(made, self.sites)
        sites = [site for part in parts for site in (*part.inner, part.outer)]
        for number, site in enumerate(sites):
            site.replace(partial(_Merged, settings=self, tasks=tasks, rows=rows, number=number))
        vectors = TaskVectors(tasks, self.size) if self.level == "task" else None
        return Paths(made, tasks, rows, partial(_balance, strength=self.balance), vectors)


class _Gate(TokenGate):
    """Gates of rows, or of tasks, by one map for all."""

    def there(self) -> None:
        """All of them are."""


class _Merged(nn.Module):
    def __init__(
        self, linear: nn.Linear, settings: Meo, tasks: TaskSet, rows: RowTasks, number: int
    ) -> None:
        super().__init__()
        self.rows, self.level, inside = rows, settings.level, linear.in_features
        self.weight, self.bias = Stack.copies(linear, settings.experts).weight, linear.bias
        if self.level == "token":
            narrow = max(1, inside // settings.reduction)
            self.down, self.up = nn.Linear(inside, narrow), nn.Linear(narrow, inside)
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)
        if self.level == "task":
            inside = max(1, settings.size // settings.reduction)
            self.project = nn.Linear(settings.size, inside)
        self.gate = _Gate(
            tasks, settings.experts, inside, rows, number,
            top=settings.top, rule="chosen", noise="learnt", shared=True, start=zeros,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, i] → [B, L, o], or [B, i] → [B, o]."""
        task = self.rows.task
        rows = x if x.ndim == 3 else x.unsqueeze(1)
        if self.level == "token":
            rows = rows + self.up(F.relu(self.down(rows)))
        if self.level == "task":
            found = self._by_task(rows, task)
        else:
            merged = self._merged(self.gate(_mean(rows), task))
            found = torch.bmm(rows, merged.transpose(1, 2))
        found = found if self.bias is None else found + self.bias
        return found.view(*x.shape[:-1], -1)

    def _by_task(self, rows: Tensor, task: Tensor) -> Tensor:
        made = self.rows.made
        there, which = torch.arange(len(made.vectors), device=task.device), task
        if not followed():
            there, which = torch.unique(task, return_inverse=True)
        with self.rows.to(there, made):
            gates = self.gate(self.project(made.vectors[there]), there)
        return through_maps(rows, which, self._merged(gates), None)

    def _merged(self, gates: Tensor) -> Tensor:
        """[n, E] → [n, o, i]."""
        return torch.einsum("ne,eoi->noi", gates, self.weight)


def _mean(rows: Tensor) -> Tensor:
    """The mean of the tokens that are there: [B, L, i] → [B, i]."""
    there = real()
    if there is None:
        return rows.mean(1)
    share = there.to(rows.dtype)
    share = share / share.sum(1, keepdim=True).clamp(min=1)
    return torch.bmm(share.unsqueeze(1), rows).squeeze(1)


def _balance(load: Load, strength: float) -> Tensor:
    return strength * (uneven(load.gates.sum(0)) + uneven(load.taken.sum(0)))
