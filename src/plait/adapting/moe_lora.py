r"""Experts of low rank that each task mixes by gates which grow from its embedding.

    y_b = W₀ x_b + s · Σ_e g_{t,e} B_e A_e drop(x_b),   g_t = softmax(G v_t),   s = alpha / rank

with t the task of row b; rank is that of all experts together. A [E, r/E, d_in] starts from
N(0, 0.01²), B [E, d_out, r/E] from 0, the embeddings v [T, k] from N(0, 1), G [E, k] from
U(±1/√k): the adapted network begins as the frozen one. With even gates the correction is 1/E of a
LoRA's of that rank. One product over all experts; as gates depend on the task alone, its part is a
plain LoRA of that rank. Parameters for each site: r·(d_in + d_out) + (T + E)·k.

    >>> import torch
    >>> from plait import Task, TaskSet
    >>> from plait.adapting import Routing
    >>> from plait.sites import module_sites
    >>> net, routing = torch.nn.Sequential(torch.nn.Linear(4, 6)), Routing()
    >>> adapter, tasks = MoeLora(rank=4, experts=2, width=3), TaskSet([Task(name="a")])
    >>> banks = adapter.attach(module_sites(net, "0"), tasks, routing)
    >>> sum(p.numel() for p in banks.parameters()) == 4 * (4 + 6) + (1 + 2) * 3
    True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.adapting.banks import PairBank, check_low_rank, gated, linear_at, lora_config, shared
from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.method import Card, Law, Paper
from plait.networks.base import TaskBank, normal, uniform, zeros
from plait.sites import ModuleSite
from plait.task import TaskSet

STD = 0.01  # of the start of A


@dataclass(frozen=True, kw_only=True)
class MoeLora(Adapter):
    """MOELoRA; ``rank`` is that of all experts together, ``width`` the embeddings'."""

    rank: int = 16
    experts: int = 8
    width: int = 64
    alpha: float = 16.0
    dropout: float = 0.0
    sites: Sequence[str] = ()

    card = Card(
        family="adapting",
        name="moe_lora",
        summary="Low-rank experts that each task mixes by gates from its embedding.",
        paper=Paper(
            title="When MOE Meets LLMs: Parameter Efficient Fine-tuning for Multi-task Medical "
            "Applications",
            authors="Qidong Liu and Xian Wu and Xiangyu Zhao and Yuanshao Zhu and Derong Xu and "
            "Feng Tian and Yefeng Zheng",
            year=2024,
            venue="SIGIR",
            url="https://arxiv.org/abs/2310.18339",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=("a gate at each site; the variant with one gate for all sites is not here",),
    )

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.dropout)
        for name in ("experts", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.rank % self.experts:
            raise ValueError(
                f"{self.experts} experts do not divide the rank {self.rank} that they share"
            )

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Wrap the linear layers at the sites; ``ValueError`` for a site of another type."""

        def bank(site: ModuleSite) -> SiteBank:
            return _MoeBank(tasks.names, linear_at(site, "moe_lora", self.rank), self)

        return put(sites, routing, bank)

    def peft_config(self, banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:
        """Each task's mixture as LoRA."""
        return lora_config(banks, task, self.dropout)


class _MoeBank(PairBank):
    """A [E, r/E, d_in], B [E, d_out, r/E], G [E, k] and v [T, k] of one site."""

    def __init__(self, names: Sequence[str], linear: nn.Linear, settings: MoeLora) -> None:
        super().__init__()
        experts, width = settings.experts, settings.width
        each = settings.rank // experts
        self.scale, self.dropout = settings.alpha / settings.rank, settings.dropout
        self.own = TaskBank(names)
        self.own.add("embedding", width, start=normal(1.0))
        self.gate = shared(experts, width, start=uniform(width))
        self.down = shared(experts, each, linear.in_features, start=normal(STD))
        self.up = shared(experts, linear.out_features, each, start=zeros)

    def once(self, present: Tensor) -> Tensor:
        """The present tasks' gates [T, E]."""
        return self.gates(self.own.stack("embedding").masked_fill(~present.unsqueeze(1), 0.0))

    def gates(self, embedding: Tensor) -> Tensor:
        """softmax(G v)."""
        return F.linear(embedding, self.gate).softmax(-1)

    def taken(self) -> Tensor:
        """The tasks' gates."""
        return self.gates(self.own.stack("embedding"))

    def adapt(self, x: Tensor, y: Tensor, routing: Routing) -> Tensor:
        gates: Tensor = routing.made(self)
        gates = self.scale * gates.index_select(0, routing.task).unsqueeze(1)
        return gated(F.dropout(x, self.dropout, self.training), y, self.down, self.up, gates)

    def pair(self, task: int) -> tuple[Tensor, Tensor]:
        """([A_1; …; A_E], [g_1 B_1 … g_E B_E]): the product of both is the mixture."""
        gates = self.gates(self.own.stack("embedding")[task])
        up = gates.view(-1, 1, 1) * self.up
        return self.down.flatten(0, 1), up.transpose(0, 1).flatten(1)

    def factor(self, task: int) -> float:  # noqa: ARG002
        """The scale alpha / rank."""
        return self.scale
