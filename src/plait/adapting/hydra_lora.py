r"""One low-rank projection for all tasks, and several ways up from it that each token mixes.

    y = W₀ x + s · Σ_e g_e(x) B_e A drop(x),   g(x) = softmax(R x),   s = alpha / rank

for each token x [d_in]. A [r, d_in] and the router R [E, d_in] start from U(±1/√d_in), B
[E, d_out, r] from 0: the adapted network begins as the frozen one. The router reads x without
dropout, at float32 or better. All tasks share these parameters: which of the E experts a row uses,
its input decides. One product over all experts, u = A x, v = g ⊗ u, [B_1 … B_E] v: no loop.
Parameters: r·d_in + E·r·d_out + E·d_in for each site.

    >>> import torch
    >>> from plait import Task, TaskSet
    >>> from plait.adapting import Routing
    >>> from plait.sites import module_sites
    >>> net, routing = torch.nn.Sequential(torch.nn.Linear(4, 3)), Routing()
    >>> adapter, tasks = HydraLora(rank=2, experts=3), TaskSet([Task(name="a")])
    >>> banks = adapter.attach(module_sites(net, "0"), tasks, routing)
    >>> sum(p.numel() for p in banks.parameters()) == 2 * 4 + 3 * 2 * 3 + 3 * 4
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.adapting.banks import LinearBank, check_low_rank, linear_at, shared
from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.method import Card, Law, Paper
from plait.networks.base import uniform, zeros
from plait.sites import ModuleSite
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class HydraLora(Adapter):
    """HydraLoRA. ``dropout`` acts on what the experts read."""

    rank: int = 8
    experts: int = 4
    alpha: float = 16.0
    dropout: float = 0.0
    sites: Sequence[str] = ()

    card = Card(
        family="adapting",
        name="hydra_lora",
        summary="One low-rank projection for all tasks, and several ways up that tokens mix.",
        paper=Paper(
            title="HydraLoRA: An Asymmetric LoRA Architecture for Efficient Fine-Tuning",
            authors="Chunlin Tian and Zhan Shi and Zhijiang Guo and Li Li and Chengzhong Xu",
            year=2024,
            venue="NeurIPS",
            url="https://arxiv.org/abs/2404.19245",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=("the number of experts is a setting; the paper finds it by clustering texts",),
    )

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.dropout)
        if self.experts < 1:
            raise ValueError(f"experts must be at least 1, got {self.experts}")

    def attach(
        self,
        sites: Sequence[ModuleSite],
        tasks: TaskSet,  # noqa: ARG002
        routing: Routing,
    ) -> nn.ModuleDict:
        """Wrap the linear layers at the sites; ``ValueError`` for a site of another type."""

        def bank(site: ModuleSite) -> SiteBank:
            return _HydraBank(linear_at(site, "hydra_lora", self.rank), self)

        return put(sites, routing, bank)


class _HydraBank(LinearBank):
    """A [r, d_in], B [E, d_out, r] and R [E, d_in] of one site."""

    def __init__(self, linear: nn.Linear, settings: HydraLora) -> None:
        super().__init__()
        inside, outside = linear.in_features, linear.out_features
        self.scale = settings.alpha / settings.rank
        self.dropout = settings.dropout
        self.down = shared(settings.rank, inside, start=uniform(inside))
        self.up = shared(settings.experts, outside, settings.rank, start=zeros)
        self.router = shared(settings.experts, inside, start=uniform(inside))

    def gates(self, x: Tensor) -> Tensor:
        """The shares of the experts [..., E] for tokens x [..., d_in]."""
        wide = torch.promote_types(x.dtype, torch.float32)
        return F.linear(x.to(wide), self.router.to(wide)).softmax(-1).to(x.dtype)

    def adapt(self, x: Tensor, y: Tensor, routing: Routing) -> Tensor:  # noqa: ARG002
        narrow = F.linear(F.dropout(x, self.dropout, self.training), self.down)
        mixed = (self.gates(x).unsqueeze(3) * narrow.unsqueeze(2)).flatten(2)
        return y + F.linear(mixed, self.up.transpose(0, 1).flatten(1)) * self.scale
