r"""LoRA with a scale that keeps the size of its outputs as the rank grows.

    y_b = W₀ x_b + s · B_t A_t drop(x_b),   t = task of row b,   s = alpha / √rank

A [T, r, d_in] starts from U(±1/√d_in) for each task, B [T, d_out, r] from 0. With alpha/rank the
correction shrinks as 1/√rank in the limit of high ranks; alpha/√rank is the one power that neither
shrinks nor grows. Parameters: T·r·(d_in + d_out) for each site.

    >>> import torch
    >>> from plait import Task, TaskSet
    >>> from plait.adapting import Routing
    >>> from plait.sites import module_sites
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 4))
    >>> adapter = RsLora(rank=4, alpha=8.0)
    >>> banks = adapter.attach(module_sites(net, "0"), TaskSet([Task(name="a")]), Routing())
    >>> float(banks["0"].scale)
    4.0
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
class RsLora(Adapter):
    """Rank-stabilised LoRA. ``dropout`` acts on the adapter's input only."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    sites: Sequence[str] = ()

    card = Card(
        family="adapting",
        name="rs_lora",
        summary="LoRA with the scale alpha/√rank, for high ranks.",
        paper=Paper(
            title="A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA",
            authors="Damjan Kalajdzievski",
            year=2023,
            url="https://arxiv.org/abs/2312.03732",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=("A starts uniformly, as in peft, not from a Gaussian",),
    )

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.dropout)

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Wrap the linear layers at the sites; ``ValueError`` for a site of another type."""

        def bank(site: ModuleSite) -> SiteBank:
            linear = linear_at(site, "rs_lora", self.rank)
            scale = self.alpha / self.rank**0.5
            return LowRankBank(tasks.names, linear, self.rank, scale, self.dropout)

        return put(sites, routing, bank)

    def peft_config(self, banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:
        """As LoRA with ``use_rslora``."""
        return lora_config(banks, task, self.dropout, root=True)
