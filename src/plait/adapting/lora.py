r"""A low-rank correction of frozen weights for each task, all tasks in one batch.

    y_b = W₀ x_b + s · B_t A_t drop(x_b),   t = task of row b,   s = alpha / rank

A [T, r, d_in] starts from U(±1/√d_in) for each task, B [T, d_out, r] from 0: the adapted network
begins as the frozen one. The slices of the rows' tasks are gathered and applied by two batched
products: the cost does not grow with T, and mixed batches train as they predict.
Parameters: T·r·(d_in + d_out) for each site.

    >>> import torch
    >>> from plait import Task, TaskSet
    >>> from plait.adapting import Routing
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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from plait.adapting.banks import LowRankBank, check_low_rank, linear_at, lora_config
from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.method import Card, Law, Paper
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
        check_low_rank(self.rank, self.dropout)

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Wrap the linear layers at the sites; ``ValueError`` for a site of another type."""

        def bank(site: ModuleSite) -> SiteBank:
            linear = linear_at(site, "lora", self.rank)
            scale = self.alpha / self.rank
            return LowRankBank(tasks.names, linear, self.rank, scale, self.dropout)

        return put(sites, routing, bank)

    def peft_config(self, banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:
        """As LoRA."""
        return lora_config(banks, task, self.dropout)
