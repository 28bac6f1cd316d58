r"""An inventory of low-rank skills that all tasks mix, and skills of each task's own beside it.

    y_b = W₀ x_b + s · (B_t A_t + Σ_j v_{t,j} D_{t,j} C_{t,j}) x_b,   s = alpha / rank
    A_t = Σ_e w_{t,e} A_e,   B_t = Σ_e w_{t,e} B_e

with t the task of row b. The common part is Polytropon: w = w̃ / (Σ_e w̃ + 1e-12), in training w̃ is
relaxed Bernoulli, σ(U + logistic noise), one draw for each task and step; else σ(U). U [T, n]
starts from U(±1e-3), A [n, r, d_in] and C [T, m·r, d_in] from U(±1/√d_in), B [n, d_out, r] and D
[T, d_out, m·r] from 0, v [T, m] from 1: the adapted network begins as the frozen one. Both parts
together are one LoRA of rank r·(1 + m) a task. ``own=0`` is Polytropon. Parameters for each site:
(n + T·m)·r·(d_in + d_out) + T·(n + m); compare with Polytropon's at equal parameters.

    >>> import torch
    >>> from plait import Task, TaskSet
    >>> from plait.adapting import Routing
    >>> from plait.sites import module_sites
    >>> net, routing = torch.nn.Sequential(torch.nn.Linear(4, 6)), Routing()
    >>> adapter, tasks = CPoly(rank=2, skills=3, own=1), TaskSet([Task(name="a"), Task(name="b")])
    >>> banks = adapter.attach(module_sites(net, "0"), tasks, routing)
    >>> sum(p.numel() for p in banks.parameters()) == (3 + 2) * 2 * (4 + 6) + 2 * (3 + 1)
    True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plait.adapting.banks import (
    PairBank,
    check_low_rank,
    linear_at,
    lora_config,
    low_rank,
    mixed,
    near_zero,
    shared,
    skill_shares,
)
from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.method import Card, Law, Paper
from plait.networks.base import TaskBank, ones, uniform, zeros
from plait.sites import ModuleSite
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class CPoly(Adapter):
    """C-Poly; ``pace`` is the factor on the rate of the tasks' rows U."""

    rank: int = 8
    skills: int = 4
    own: int = 1
    alpha: float = 1.0
    noise: bool = True
    pace: float = 10.0
    sites: Sequence[str] = ()

    card = Card(
        family="adapting",
        name="c_poly",
        summary="Low-rank skills that all tasks mix, and skills of each task's own beside them.",
        paper=Paper(
            title="Customizable Combination of Parameter-Efficient Modules for Multi-Task Learning",
            authors="Haowen Wang and Tao Sun and Congyun Jin and Yingbo Wang and Yibo Fan and "
            "Yunqi Xu and Yuliang Du and Cong Fan",
            year=2024,
            venue="ICLR",
            url="https://arxiv.org/abs/2312.03248",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "rebuilt from the abstract alone: common skills as in Polytropon, A and B mixed apart",
            "noise is drawn for each task and step, not for each row, so rows can be reordered",
        ),
    )

    def __post_init__(self) -> None:
        check_low_rank(self.rank)
        if self.skills < 1 or self.own < 0:
            raise ValueError(
                f"skills must be at least 1 and own not negative, got {self.skills, self.own}"
            )
        if self.pace <= 0:
            raise ValueError(f"pace must be positive, got {self.pace}")

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Wrap the linear layers at the sites; ``ValueError`` for a site of another type."""

        def bank(site: ModuleSite) -> SiteBank:
            return _CustomBank(tasks.names, linear_at(site, "c_poly", self.rank), self)

        return put(sites, routing, bank)

    def peft_config(self, banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:
        """Each task's skills together as one LoRA."""
        return lora_config(banks, task, 0.0)


class _CustomBank(PairBank):
    """A, B of the common skills, and U, v, C, D of the tasks at one site."""

    def __init__(self, names: Sequence[str], linear: nn.Linear, settings: CPoly) -> None:
        super().__init__()
        inside, outside, rank = linear.in_features, linear.out_features, settings.rank
        self.scale, self.noise, self.rank = settings.alpha / rank, settings.noise, rank
        self.tasks = TaskBank(names)
        self.tasks.add("logits", settings.skills, start=near_zero, pace=settings.pace)
        self.down = shared(settings.skills, rank, inside, start=uniform(inside))
        self.up = shared(settings.skills, outside, rank, start=zeros)
        self.tasks.add("weights", settings.own, start=ones)
        self.tasks.add("down", settings.own * rank, inside, start=uniform(inside))
        self.tasks.add("up", outside, settings.own * rank)

    def once(self, present: Tensor) -> Tensor:
        """The present tasks' shares of the common skills [T, n], drawn in training."""
        logits = self.tasks.stack("logits").masked_fill(~present.unsqueeze(1), 0.0)
        return skill_shares(logits, noise=self.training and self.noise)

    def taken(self) -> Tensor:
        """The tasks' shares of the common skills."""
        return skill_shares(self.tasks.stack("logits"), noise=False)

    def adapt(self, x: Tensor, y: Tensor, routing: Routing) -> Tensor:
        down, up = self._pairs(routing.made(self), routing.task)
        return low_rank(x, y, down, up, self.scale)

    def _pairs(self, shares: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """Common and own skills one below the other: [B, r + m·r, d_in], [B, d_out, r + m·r]."""
        weights, down, up = (
            self.tasks.stack(name).index_select(0, task) for name in ("weights", "down", "up")
        )
        up = up * weights.repeat_interleave(self.rank, 1).unsqueeze(1)
        return (
            torch.cat([mixed(shares, self.down, task), down], 1),
            torch.cat([mixed(shares, self.up, task), up], 2),
        )

    def pair(self, task: int) -> tuple[Tensor, Tensor]:
        """The task's common and own skills, without noise."""
        shares = skill_shares(self.tasks.stack("logits"), noise=False)
        down, up = self._pairs(shares, torch.tensor([task], device=self.down.device))
        return down[0], up[0]

    def factor(self, task: int) -> float:  # noqa: ARG002
        """The scale alpha / rank."""
        return self.scale
