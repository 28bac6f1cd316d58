r"""One low-rank projection for all tasks, turned by each, and ways up that each task mixes.

    y_b = W₀ x_b + s · B_t Λ_t A drop(x_b),   B_t = Σ_i softmax_i(w_t / temperature) B_i

with t the task of row b and s = alpha / rank. A [r, d_in] starts from U(±1/√d_in), the ways up B
[n, d_out, r] from 0, Λ [T, r, r] from the identity, w [T, n] from U(±1/√n): the adapted network
begins as the frozen one. Mixing costs T·n·r·d_out a step, whatever the rows. A task's part is the
plain LoRA (Λ_t A, B_t). Parameters for each site: r·d_in + n·r·d_out + T·(r² + n).

    >>> import torch
    >>> from plait import Task, TaskSet
    >>> from plait.adapting import Routing
    >>> from plait.sites import module_sites
    >>> net, routing = torch.nn.Sequential(torch.nn.Linear(4, 6)), Routing()
    >>> adapter, tasks = MtlLora(rank=2, ups=3), TaskSet([Task(name="a"), Task(name="b")])
    >>> banks = adapter.attach(module_sites(net, "0"), tasks, routing)
    >>> sum(p.numel() for p in banks.parameters()) == 2 * 4 + 3 * 2 * 6 + 2 * (2 * 2 + 3)
    True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.adapting.banks import (
    PairBank,
    check_low_rank,
    linear_at,
    lora_config,
    low_rank,
    mixed,
    shared,
)
from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.method import Card, Law, Paper
from plait.networks.base import TaskBank, uniform, zeros
from plait.sites import ModuleSite
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class MtlLora(Adapter):
    """MTL-LoRA with ``ups`` ways up; ``dropout`` acts on the adapter's input only."""

    rank: int = 8
    ups: int = 3
    temperature: float = 0.1
    alpha: float = 16.0
    dropout: float = 0.0
    sites: Sequence[str] = ()

    card = Card(
        family="adapting",
        name="mtl_lora",
        summary="One low-rank projection for all tasks, turned by each, and ways up they mix.",
        paper=Paper(
            title="MTL-LoRA: Low-Rank Adaptation for Multi-Task Learning",
            authors="Yaming Yang and Dilxat Muhtar and Yelong Shen and Yuefeng Zhan and "
            "Jianfeng Liu and Yujing Wang and Hao Sun and Weiwei Deng and Feng Sun and "
            "Qi Zhang and Weizhu Chen and Yunhai Tong",
            year=2025,
            venue="AAAI",
            url="https://arxiv.org/abs/2410.09437",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
    )

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.dropout)
        if self.ups < 1:
            raise ValueError(f"ups must be at least 1, got {self.ups}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Wrap the linear layers at the sites; ``ValueError`` for a site of another type."""

        def bank(site: ModuleSite) -> SiteBank:
            return _MtlBank(tasks.names, linear_at(site, "mtl_lora", self.rank), self)

        return put(sites, routing, bank)

    def peft_config(self, banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:
        """Each task's part as LoRA."""
        return lora_config(banks, task, self.dropout)


def _identity(slice_: Tensor, generator: torch.Generator) -> None:  # noqa: ARG001
    torch.nn.init.eye_(slice_)


class _MtlBank(PairBank):
    """A [r, d_in], B [n, d_out, r], Λ [T, r, r] and w [T, n] of one site."""

    def __init__(self, names: Sequence[str], linear: nn.Linear, settings: MtlLora) -> None:
        super().__init__()
        inside, outside = linear.in_features, linear.out_features
        rank, ups = settings.rank, settings.ups
        self.scale, self.dropout = settings.alpha / rank, settings.dropout
        self.temperature = settings.temperature
        self.own = TaskBank(names)
        self.own.add("turn", rank, rank, start=_identity)
        self.own.add("mix", ups, start=uniform(ups))
        self.down = shared(rank, inside, start=uniform(inside))
        self.up = shared(ups, outside, rank, start=zeros)

    def once(self, present: Tensor) -> Tensor:
        """The present tasks' shares of the ways up [T, n]."""
        return self.shares(self.own.stack("mix").masked_fill(~present.unsqueeze(1), 0.0))

    def taken(self) -> Tensor:
        """The tasks' shares of the ways up."""
        return self.shares(self.own.stack("mix"))

    def shares(self, mix: Tensor) -> Tensor:
        """softmax(w / temperature), in float32 or better."""
        wide = torch.promote_types(mix.dtype, torch.float32)
        return (mix.to(wide) / self.temperature).softmax(-1).to(mix.dtype)

    def adapt(self, x: Tensor, y: Tensor, routing: Routing) -> Tensor:
        task = routing.task
        narrow = F.linear(F.dropout(x, self.dropout, self.training), self.down)
        turn = self.own.stack("turn").index_select(0, task)
        return low_rank(narrow, y, turn, mixed(routing.made(self), self.up, task), self.scale)

    def pair(self, task: int) -> tuple[Tensor, Tensor]:
        """(Λ_t A, B_t)."""
        shares = self.shares(self.own.stack("mix")[task])
        up = torch.einsum("n,nor->or", shares, self.up)
        return self.own.stack("turn")[task] @ self.down, up

    def factor(self, task: int) -> float:  # noqa: ARG002
        """The scale alpha / rank."""
        return self.scale
