r"""A low-rank correction of frozen weights for each task, all tasks in one batch.

    y_b = W₀ x_b + s · B_t A_t drop(x_b),   t = task of row b,   s = alpha / rank

A [T, r, d_in] starts from U(±1/√d_in) for each task, B [T, d_out, r] from 0: the adapted network
begins as the frozen one. The slices of the rows' tasks are gathered and applied by two batched
products: the cost does not grow with T, and mixed batches train as they predict.
Parameters: T·r·(d_in + d_out) for each site.

    >>> import torch
    >>> from plait import Task, TaskSet
    >>> from plait.adapting.base import Routing
    >>> from plait.sites import module_sites
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3))
    >>> tasks, routing = TaskSet([Task(name="a"), Task(name="b")]), Routing()
    >>> x, before = torch.ones(2, 4), net(torch.ones(2, 4))
    >>> banks = Lora(rank=2).attach(module_sites(net, "0"), tasks, routing)
    >>> with routing.to(torch.tensor([1, 0])):
    ...     torch.equal(net(x), before)
    True
    >>> sum(p.numel() for p in banks.parameters()) == 2 * 2 * (4 + 3)
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.adapting.base import AdaptedLayer, Adapter, Routing
from plait.method import Card, Law, Paper
from plait.networks.base import TaskBank, escape, uniform
from plait.sites import ModuleSite
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Lora(Adapter):
    """Low-rank adaptation with a slice per task. ``dropout`` acts on the adapter's input only."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    sites: Sequence[str] = ()

    card = Card(
        family="adapting",
        name="lora",
        summary="A low-rank correction of frozen weights for each task.",
        paper=Paper(
            title="LoRA: Low-Rank Adaptation of Large Language Models",
            authors="Edward J. Hu and Yelong Shen and Phillip Wallis and Zeyuan Allen-Zhu and "
            "Yuanzhi Li and Shean Wang and Lu Wang and Weizhu Chen",
            year=2021,
            venue="ICLR 2022",
            url="https://arxiv.org/abs/2106.09685",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=("A starts uniformly, as in peft and the authors' code, not from a Gaussian",),
    )

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Wrap the linear layers at the sites; ``ValueError`` for a site of another type."""
        banks = nn.ModuleDict()
        for site in sites:
            linear = site.module
            if not isinstance(linear, nn.Linear):
                raise ValueError(f"lora adapts linear layers; {site!r} is none")
            bank = LoraBank(tasks.names, linear, self)
            banks[escape(site.path)] = bank
            site.replace(partial(AdaptedLinear, bank=bank, routing=routing))
        return banks


class LoraBank(TaskBank):
    """A [T, r, d_in] and B [T, d_out, r] of one site."""

    def __init__(self, names: Sequence[str], linear: nn.Linear, settings: Lora) -> None:
        super().__init__(names)
        self.scale = settings.alpha / settings.rank
        self.dropout = settings.dropout
        start = uniform(linear.in_features)
        self.down = self.add("down", settings.rank, linear.in_features, start=start)
        self.up = self.add("up", linear.out_features, settings.rank)
        self.to(linear.weight)

    def forward(self, x: Tensor, base: Tensor, task: Tensor) -> Tensor:
        """Inputs [B, n, d_in], the base's outputs [B, n, d_out], task [B] → base + s·B A x."""
        down = self.down.index_select(0, task).transpose(1, 2)
        up = self.up.index_select(0, task).transpose(1, 2)
        narrow = torch.bmm(F.dropout(x, self.dropout, self.training), down)
        return torch.baddbmm(base, narrow, up, alpha=self.scale)

    def change(self, task: int) -> Tensor:
        """ΔW = s·B_t A_t [d_out, d_in] of the task at that position."""
        return self.scale * self.up[task] @ self.down[task]


class AdaptedLinear(AdaptedLayer):
    """A frozen linear layer with its bank, which the adapted trunk owns."""

    def __init__(self, base: nn.Module, bank: LoraBank, routing: Routing) -> None:
        super().__init__()
        assert isinstance(base, nn.Linear)
        self.base = base
        self.routing = routing
        self.owner = (bank,)  # in a tuple, so that its parameters are not registered twice
        self.kept: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The frozen weight, for code that asks a layer for its type or device."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """[B·n, d_in] or [B, ..., d_in], rows by task as routed → the same with d_out."""
        y: Tensor = self.base(x)
        if self.kept is not None:
            return y
        routing, (bank,) = self.routing, self.owner
        found: Tensor = bank(routing.by_row(x), routing.by_row(y), routing.task)
        return found.view(y.shape)

    @torch.no_grad()
    def fold(self, task: int) -> None:
        """Add one task's ΔW to the frozen weight, until :meth:`unfold` restores it exactly."""
        if self.kept is not None:
            raise ValueError("a task is folded in already; unfold it first")
        self.kept = self.base.weight.detach().clone()
        self.base.weight += self.owner[0].change(task)

    @torch.no_grad()
    def unfold(self) -> None:
        """Restore the frozen weight, bit for bit."""
        if self.kept is None:
            raise ValueError("no task is folded in")
        self.base.weight.copy_(self.kept)
        self.kept = None
