r"""Every block of an encoder in E copies, of which each task takes one, by a route it learns.

With task vectors v_t [size], at block l a router gives logits over the copies, and a route:

    s_t^l = W₂^l GELU(W₁^l v_t + b₁^l) + b₂^l                       [E]
    z_t^l = one-hot of argmax (s_t^l + noise), its gradient that of softmax((s_t^l + noise) / τ)
    h ← Σ_e z_te^l · block_e^l(h)         for a row of task t

The noise is Gumbel's and one draw serves all rows of a task; it is keyed by the step, the block and
the task. τ falls with the step, max(2·exp(−0.0003·step), 0.1). In evaluation there is no noise, and
only the chosen copy runs. ``route`` softmax mixes all copies by softmax(s/τ) instead. The copies
start as the block, moved by ``noise``. Parameters: each block E times, and for each block
(size+1)·hidden + (hidden+1)·E, and T·size.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"width": 5, "depth": 1}}},
    ...     sharing=TaskLevelMoe(experts=2, size=6, hidden=4), seed=0,
    ... )
    >>> blocks, routers = 2 * (3 + 1) * 5, (6 + 1) * 4 + (4 + 1) * 2
    >>> sum(p.numel() for p in network.trunk.parameters()) == blocks + routers + 2 * 6
    True
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._pytree import tree_map

from plait.data.seeding import key
from plait.method import Card, Law, Paper
from plait.networks.base import Bank, Encoder, MakeEncoder, Sharing, TaskBank, Trunk, uniform
from plait.networks.routing import followed
from plait.networks.rows import RowTasks
from plait.sharing.base import at_least, gumbel, straight
from plait.sharing.inside import Inside, each_through_one, sites_in
from plait.sites import ModuleSite
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class TaskLevelMoe(Sharing):
    """Task-level mixture of blocks; ``sites`` names them where they are not the encoder's list."""

    experts: int = 3
    size: int = 768
    hidden: int = 64
    route: Literal["gumbel", "softmax"] = "gumbel"
    noise: float = 1e-8
    sites: Sequence[str] = ()

    card = Card(
        family="sharing",
        name="task_level_moe",
        summary="Every block of an encoder in several copies, of which each task takes one.",
        paper=Paper(
            title="Eliciting and Understanding Cross-task Skills with Task-level "
            "Mixture-of-Experts",
            authors="Qinyuan Ye and Juan Zha and Xiang Ren",
            year=2022,
            venue="Findings of EMNLP",
            url="https://arxiv.org/abs/2205.12701",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "one route for all rows of a task in a step; the authors' code draws for each row",
            "task vectors start at random, not from embeddings of the tasks",
            "all learn at one rate, and no route is replaced by a random one",
        ),
        exceptions={"reach_is_exact": "which copies a task trains is drawn anew in each step"},
    )

    def __post_init__(self) -> None:
        at_least(self, experts=1, size=1, hidden=1, noise=0)
        if self.route not in ("gumbel", "softmax"):
            raise ValueError(f"route must be gumbel or softmax, got {self.route!r}")

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder with routed copies at its blocks."""
        made = encoder()
        return _TaskLevelMoe(made, tasks, self, sites_in(made, self.sites))


class _TaskLevelMoe(Inside):
    step: Tensor

    def __init__(
        self, encoder: Encoder, tasks: TaskSet, settings: TaskLevelMoe, sites: Sequence[ModuleSite]
    ) -> None:
        super().__init__(encoder, tasks, RowTasks())
        self.hard = settings.route == "gumbel"
        self.vectors = TaskBank(tasks.names)
        self.vectors.add("vector", settings.size, start=uniform(settings.size))
        self.routers = nn.ModuleList(_Router(settings) for _ in sites)
        for number, site in enumerate(sites):
            site.replace(partial(Copies, settings=settings, rows=self.rows, number=number))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def advance(self, step: int) -> None:
        """Let the temperature fall."""
        self.step.fill_(step)

    def begin(self, task: Tensor) -> list[Tensor]:
        """The routes [T, E] of the tasks at every block, drawn in training."""
        base = int(torch.randint(2**62, ()).item()) if self.training and self.hard else None
        warmth = torch.clamp(2 * torch.exp(-3e-4 * self.step), min=0.1)
        vectors = self.vectors.stack("vector")
        there = torch.zeros(len(vectors), 1, dtype=torch.bool, device=task.device)
        vectors = vectors.where(there.index_fill(0, task, value=True), 0.0)
        found = []
        for number, router in enumerate(self.routers):
            logits: Tensor = router(vectors)
            if base is not None:
                logits = logits + gumbel(logits, self.tasks.names, base, number)
            found.append(straight(logits, warmth) if self.hard else (logits / warmth).softmax(1))
        return found


class _Router(nn.Module):
    def __init__(self, settings: TaskLevelMoe) -> None:
        super().__init__()
        self.bank = Bank([None])
        for name, inside, outside in (
            ("first", settings.size, settings.hidden),
            ("second", settings.hidden, settings.experts),
        ):
            self.bank.add(name, outside, inside, start=uniform(inside))
            self.bank.add(f"{name}_bias", outside, start=uniform(inside))

    def forward(self, vectors: Tensor) -> Tensor:
        """[T, size] → [T, E]."""
        first, second = (
            (self.bank.stack(name)[0], self.bank.stack(f"{name}_bias")[0])
            for name in ("first", "second")
        )
        return F.linear(F.gelu(F.linear(vectors, *first)), *second)


class Copies(nn.Module):
    """Copies of a block, weighted for each row by its task's route at block ``number``."""

    def __init__(
        self, block: nn.Module, settings: TaskLevelMoe, rows: RowTasks, number: int
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(copy.deepcopy(block) for _ in range(settings.experts))
        self.rows, self.number, self.hard = rows, number, settings.route == "gumbel"
        with torch.no_grad():
            for place, parameter in enumerate(self.blocks.parameters()):
                draw = torch.Generator().manual_seed(key("copies", number, place))
                parameter.add_(settings.noise * torch.randn(parameter.shape, generator=draw))

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """As the block, each row by its task's route; in evaluation only copies that are taken."""
        share = self.rows.made[self.number][self.rows.task]
        if self.hard and not self.training and not followed():
            return each_through_one(self.blocks, share.argmax(1), inputs, named)

        def mixed(*found: Any) -> Any:
            if not isinstance(found[0], Tensor) or found[0].shape[0] != share.shape[0]:
                return found[0]
            shape = (-1, *[1] * (found[0].ndim - 1))
            weights = share.to(found[0]).unbind(1)
            return sum(w.view(shape) * each for w, each in zip(weights, found, strict=True))

        return tree_map(mixed, *(block(*inputs, **named) for block in self.blocks))
