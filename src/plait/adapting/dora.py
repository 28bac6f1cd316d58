r"""LoRA on the directions of the weights, their lengths learnt apart.

    V_t = W₀ + s · B_t A_t,   y_b = (m_t / ‖V_t‖) ⊙ V_t x_b + bias,   t = task of row b

A [T, r, d_in], B [T, d_out, r] and s = alpha / rank as in LoRA; m [T, d_out] starts as ‖W₀‖, the
length of each output's weights, so the adapted network begins as the frozen one. ‖V_t‖ [d_out] is a
constant in the backward pass. No [T, d_out, d_in] tensor is made:

    ‖V‖² = ‖W₀‖² + 2s · rowsum((W₀Aᵀ) ⊙ B) + s² · rowsum((B A Aᵀ) ⊙ B)

Parameters: T·(r·(d_in + d_out) + d_out) for each site.

    >>> import torch
    >>> from plait import Task, TaskSet
    >>> from plait.adapting import Routing
    >>> from plait.sites import module_sites
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3))
    >>> x, before = torch.ones(2, 4), net(torch.ones(2, 4))
    >>> routing, tasks = Routing(), TaskSet([Task(name="a"), Task(name="b")])
    >>> banks = Dora(rank=2).attach(module_sites(net, "0"), tasks, routing)
    >>> with routing.to(torch.tensor([1, 0])):
    ...     torch.equal(net(x), before)
    True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.adapting.banks import LowRankBank, check_low_rank, linear_at, lora_config
from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.method import Card, Law, Paper
from plait.sites import ModuleSite
from plait.task import TaskSet

MAGNITUDE = "lora_magnitude_vector"


@dataclass(frozen=True, kw_only=True)
class Dora(Adapter):
    """Weight-decomposed low-rank adaptation. ``dropout`` acts on the correction's input."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    sites: Sequence[str] = ()

    card = Card(
        family="adapting",
        name="dora",
        summary="LoRA on the directions of the weights, with a learnt length for each output.",
        paper=Paper(
            title="DoRA: Weight-Decomposed Low-Rank Adaptation",
            authors="Shih-Yang Liu and Chien-Yi Wang and Hongxu Yin and Pavlo Molchanov and "
            "Yu-Chiang Frank Wang and Kwang-Ting Cheng and Min-Hung Chen",
            year=2024,
            venue="ICML",
            url="https://arxiv.org/abs/2402.09353",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "lengths are those of each output's weights, as in the authors' code, not of columns",
            "dropout acts on the correction's input; peft drops the frozen product's input, too",
        ),
    )

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.dropout)

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Wrap the linear layers at the sites; ``ValueError`` for a site of another type."""

        def bank(site: ModuleSite) -> SiteBank:
            return _DoraBank(tasks.names, linear_at(site, "dora", self.rank), self)

        return put(sites, routing, bank)

    def peft_config(self, banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:
        """As LoRA with ``use_dora``."""
        return lora_config(banks, task, self.dropout, use_dora=True)


class _DoraBank(LowRankBank):
    """A LoRA's bank and the lengths m [T, d_out]."""

    def __init__(self, names: Sequence[str], linear: nn.Linear, settings: Dora) -> None:
        scale = settings.alpha / settings.rank
        super().__init__(names, linear, settings.rank, scale, settings.dropout)
        self.linear = (linear,)  # frozen, and registered where it stands
        self.like(linear)
        self.add("magnitude", linear.out_features)
        self.reset()

    @torch.no_grad()
    def reset(self, seed: int = 0, place: str = "") -> None:
        """As any bank, and lengths as they are, in their own type."""
        super().reset(seed, place)
        if "magnitude" in self.starts:
            (linear,) = self.linear
            self.get_parameter("magnitude").copy_(linear.weight.square().sum(1).sqrt())

    def adapt(self, x: Tensor, y: Tensor, routing: Routing) -> Tensor:
        (linear,) = self.linear
        task, every = routing.task, (self.stack("down"), self.stack("up"), self.scale)
        down, up, scale = (each.index_select(0, task) for each in every)
        if len(task) < len(self.names):
            lengths = self._lengths(linear.weight, down, up, scale)
        else:
            lengths = self._lengths(linear.weight, *every).index_select(0, task)
        gain = self.stack("magnitude").index_select(0, task) / lengths
        narrow = torch.bmm(F.dropout(x, self.dropout, self.training), down.transpose(1, 2))
        low = torch.bmm(narrow * scale.view(-1, 1, 1), up.transpose(1, 2))
        plain = y if linear.bias is None else y - linear.bias
        gain = gain.unsqueeze(1)
        return y + (gain - 1) * plain + gain * low

    @staticmethod
    @torch.no_grad()
    def _lengths(weight: Tensor, down: Tensor, up: Tensor, scale: Tensor) -> Tensor:
        """‖W₀ + s·B A‖ over the inputs: [n, d_out] for n pairs A [n, r, d_in], B [n, d_out, r]."""
        cross = ((weight @ down.transpose(1, 2)) * up).sum(2)
        square = ((up @ (down @ down.transpose(1, 2))) * up).sum(2)
        s = scale.unsqueeze(1)
        return (weight.square().sum(1) + 2 * s * cross + s.square() * square).sqrt()

    def fold(self, base: nn.Module, task: int) -> Mapping[str, Tensor]:
        """(m / ‖V‖) ⊙ V."""
        moved = base.get_parameter("weight") + self.change(task)
        gain = self.stack("magnitude")[task] / torch.linalg.vector_norm(moved, dim=1)
        return {"weight": gain.unsqueeze(1) * moved}

    def exported(self, task: int) -> Mapping[str, Tensor]:
        """A, B and m."""
        return {**super().exported(task), MAGNITUDE: self.stack("magnitude")[task]}

    @torch.no_grad()
    def take(self, task: int, tensors: Mapping[str, Tensor], scale: float) -> None:
        super().take(task, tensors, scale)
        self.stack("magnitude")[task] = tensors[MAGNITUDE]
