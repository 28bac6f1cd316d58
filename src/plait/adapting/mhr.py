r"""An inventory of low-rank skills, mixed for each task by its own learnt row of skills.

    y_b = W₀ x_b + s · B_t A_t x_b,   A_t[h] = Σ_e z[t,h,e] A[e,h],   B_t[h] = Σ_e z[t,h,e] B[e,h]

with t the task of row b, s = alpha / rank and z = z̃ / (Σ_e z̃ + 1e-12). In training z̃ is relaxed
Bernoulli, σ(U + logistic noise), one draw for each task and step; else σ(U). U [T, H, E] starts
from U(±1e-3), A [E, H, d_in/H, r] from U(±1/√d_in), B [E, H, d_out/H, r] from 0: the adapted
network begins as the frozen one. The *parameters* are mixed, A and B apart: the product has cross
terms B_e A_f that a mixture of outputs has not. Heads h mix their own blocks of input and output;
``heads=1`` is Polytropon (Ponti et al., 2022). Mixing costs T·E·r·d a step, whatever the rows.
Parameters for each site: E·r·(d_in + d_out) + T·H·E.

    >>> import torch
    >>> from plait import Task, TaskSet
    >>> from plait.adapting import Routing
    >>> from plait.sites import module_sites
    >>> net, routing = torch.nn.Sequential(torch.nn.Linear(4, 6)), Routing()
    >>> adapter, tasks = Mhr(rank=2, skills=3, heads=2), TaskSet([Task(name="a"), Task(name="b")])
    >>> banks = adapter.attach(module_sites(net, "0"), tasks, routing)
    >>> sum(p.numel() for p in banks.parameters()) == 3 * 2 * (4 + 6) + 2 * 2 * 3
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
    skill_shares,
)
from plait.adapting.banks import shared as stack_of
from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.method import Card, Law, Paper
from plait.networks.base import TaskBank, uniform, zeros
from plait.sites import ModuleSite
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Mhr(Adapter):
    """Multi-head routing over skills; ``pace`` is the factor on the rate of the tasks' rows U."""

    rank: int = 8
    skills: int = 8
    heads: int = 4
    alpha: float = 1.0
    noise: bool = True
    pace: float = 10.0
    sites: Sequence[str] = ()

    card = Card(
        family="adapting",
        name="mhr",
        summary="An inventory of low-rank skills, mixed for each task by its own learnt row.",
        paper=Paper(
            title="Multi-Head Adapter Routing for Cross-Task Generalization",
            authors="Lucas Caccia and Edoardo Ponti and Zhan Su and Matheus Pereira and "
            "Nicolas Le Roux and Alessandro Sordoni",
            year=2023,
            venue="NeurIPS",
            url="https://arxiv.org/abs/2211.03831",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "noise is drawn for each task and step, not for each row, so rows can be reordered",
            "the bound of A's start is that of a whole layer's input, for each skill by itself",
        ),
    )

    def __post_init__(self) -> None:
        check_low_rank(self.rank)
        for name in ("skills", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.pace <= 0:
            raise ValueError(f"pace must be positive, got {self.pace}")

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Wrap the linear layers at the sites; ``ValueError`` where heads do not divide them."""

        def bank(site: ModuleSite) -> SiteBank:
            linear = linear_at(site, "mhr", self.rank)
            for side in (linear.in_features, linear.out_features):
                if side % self.heads:
                    raise ValueError(
                        f"mhr: {self.heads} heads do not divide the {side} of {site.path}; set "
                        "heads to a divisor, or 1 (Polytropon)"
                    )
            return SkillBank(tasks.names, linear, self)

        return put(sites, routing, bank)

    def peft_config(self, banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:
        """Each task's mixture as LoRA."""
        return lora_config(banks, task, 0.0)


class SkillBank(PairBank):
    """U [T, H, E], A [E, H, d_in/H, r] and B [E, H, d_out/H, r] of one site."""

    def __init__(self, names: Sequence[str], linear: nn.Linear, settings: Mhr) -> None:
        super().__init__()
        inside, outside, heads = linear.in_features, linear.out_features, settings.heads
        rank, skills = settings.rank, settings.skills
        self.noise = settings.noise
        self.own = TaskBank(names)
        self.own.add("logits", heads, skills, start=near_zero, pace=settings.pace)
        self.down = stack_of(skills, heads, inside // heads, rank, start=uniform(inside))
        self.up = stack_of(skills, heads, outside // heads, rank, start=zeros)
        self.scale = settings.alpha / rank

    def once(self, present: Tensor) -> Tensor:
        """The present tasks' weights z [T, H, E], drawn in training."""
        logits = self.own.stack("logits").masked_fill(~present.view(-1, 1, 1), 0.0)
        return skill_shares(logits, noise=self.training and self.noise)

    def taken(self) -> Tensor:
        """The tasks' weights of the skills, the mean over heads."""
        return skill_shares(self.own.stack("logits"), noise=False).mean(1)

    def adapt(self, x: Tensor, y: Tensor, routing: Routing) -> Tensor:
        weights, task = routing.made(self), routing.task
        down = mixed(weights, self.down, task).flatten(1, 2).transpose(1, 2)
        up = mixed(weights, self.up, task).flatten(1, 2)
        return low_rank(x, y, down, up, self.scale)

    def pair(self, task: int) -> tuple[Tensor, Tensor]:
        """(A_t [r, d_in], B_t [d_out, r]) of the task at that position, without noise."""
        where = torch.tensor([task], device=self.down.device)
        weights = skill_shares(self.own.stack("logits"), noise=False)
        down, up = (mixed(weights, each, where)[0].flatten(0, 1) for each in (self.down, self.up))
        return down.T, up

    def factor(self, task: int) -> float:  # noqa: ARG002
        """The scale alpha / rank."""
        return self.scale
