r"""A LoRA whose every rank is an expert: each token opens those that its gates choose.

    y = W₀ x + alpha · Σ_{i∈S} g_i b_i (a_iᵀ x′),   g_i = c_i / Σ_{j∈S} c_j,   x′ = drop(x)
    c = σ(R x′) + β,   S the ``active`` largest of c

for each token x [d_in]. A [r, d_in] and the router R [r/q, d_in] start from U(±1/√d_in), B
[d_out, r] from 0: the adapted network begins as the frozen one. Each score serves a ``block`` of q
ranks; q = 1 makes every rank an expert, q = r/E a mixture of E LoRAs. The bias β [r] evens out how
often ranks are chosen, without a loss: after each forward of training β ← β + u·sign(mean count −
count), u = ``balance``. All tasks share these parameters. Gates of 0 in one product over all ranks
cost less than gathering for the ranks that adapters have. Parameters for each site:
r·(d_in + d_out) + r·d_in / q.

    >>> import torch
    >>> from plait import Task, TaskSet
    >>> from plait.adapting import Routing
    >>> from plait.sites import module_sites
    >>> net, routing = torch.nn.Sequential(torch.nn.Linear(4, 6)), Routing()
    >>> adapter, tasks = Smora(rank=4, active=2), TaskSet([Task(name="a")])
    >>> banks = adapter.attach(module_sites(net, "0"), tasks, routing)
    >>> sum(p.numel() for p in banks.parameters()) == 4 * (4 + 6) + 4 * 4
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
class Smora(Adapter):
    """SMoRA; ``active`` of ``rank`` experts for each token, whose scores come by the ``block``."""

    rank: int = 64
    active: int = 8
    block: int = 1
    alpha: float = 16.0
    balance: float = 1e-5
    dropout: float = 0.0
    sites: Sequence[str] = ()

    card = Card(
        family="adapting",
        name="smora",
        summary="A LoRA whose every rank is an expert that tokens open or not.",
        paper=Paper(
            title="Each Rank Could be an Expert: Single-Ranked Mixture of Experts LoRA for "
            "Multi-Task Learning",
            authors="Ziyu Zhao and Yixiao Zhou and Xin Yu and Zhi Zhang and Didi Zhu and Tao Shen "
            "and Zexi Li and Jinluan Yang and Xuwu Wang and Jing Su and Kun Kuang and "
            "Zhongyu Wei and Fei Wu and Yu Cheng",
            year=2026,
            venue="KDD",
            url="https://arxiv.org/abs/2501.15103",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "the bias moves once a forward; in the authors' code recomputed blocks move it twice",
            "with several micro-batches a step, it moves once for each",
        ),
        exceptions={"runs_repeat": "its bias moves with every forward of training"},
    )

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.dropout)
        if not 1 <= self.active <= self.rank:
            raise ValueError(f"active must be from 1 to the rank {self.rank}, got {self.active}")
        if self.block < 1 or self.rank % self.block or self.active % self.block:
            raise ValueError(
                f"block must divide rank and active, got {self.block} for {self.rank, self.active}"
            )
        if self.balance < 0:
            raise ValueError(f"balance must not be negative, got {self.balance}")

    def attach(
        self,
        sites: Sequence[ModuleSite],
        tasks: TaskSet,  # noqa: ARG002
        routing: Routing,
    ) -> nn.ModuleDict:
        """Wrap the linear layers at the sites; ``ValueError`` for a site of another type."""

        def bank(site: ModuleSite) -> SiteBank:
            return _RankBank(linear_at(site, "smora", self.rank), self)

        return put(sites, routing, bank)


class _RankBank(LinearBank):
    """A [r, d_in], B [d_out, r], R [r/q, d_in] and the bias β [r] of one site."""

    bias: Tensor

    def __init__(self, linear: nn.Linear, settings: Smora) -> None:
        super().__init__()
        inside, rank = linear.in_features, settings.rank
        self.settings = settings
        self.down = shared(rank, inside, start=uniform(inside))
        self.up = shared(linear.out_features, rank, start=zeros)
        self.router = shared(rank // settings.block, inside, start=uniform(inside))
        self.register_buffer("bias", torch.zeros(rank))

    def once(self, present: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The bias of this forward, and how often each rank was chosen so far."""
        return self.bias.clone(), torch.zeros_like(self.bias)

    def gates(self, x: Tensor, bias: Tensor) -> Tensor:
        """The gates [..., r] for tokens x [..., d_in]: they sum to 1, all but ``active`` are 0."""
        scores = F.linear(x, self.router).sigmoid()
        scores = scores.repeat_interleave(self.settings.block, -1) + bias
        best, places = scores.topk(self.settings.active, dim=-1)
        chosen = best / best.sum(-1, keepdim=True)
        return torch.zeros_like(scores).scatter(-1, places, chosen)

    def adapt(self, x: Tensor, y: Tensor, routing: Routing) -> Tensor:
        bias, counts = routing.made(self)
        x = F.dropout(x, self.settings.dropout, self.training)
        gates = self.gates(x, bias)
        if self.training:
            self._even_out(gates, bias, counts)
        return y + self.settings.alpha * F.linear(F.linear(x, self.down) * gates, self.up)

    @torch.no_grad()
    def _even_out(self, gates: Tensor, bias: Tensor, counts: Tensor) -> None:
        """Move the bias from where it was as the forward began.

        So a forward that runs in parts, or twice under gradient checkpointing, moves it once: ranks
        that are all counted twice leave the signs as they are.
        """
        counts += (gates != 0).flatten(0, -2).sum(0)
        self.bias.copy_(bias + self.settings.balance * (counts.mean() - counts).sign())
