r"""Low-rank corrections through a random projection that never trains, each task's part sparse.

    y_b = W₀ x_b + s · (M_t ⊙ B_t) A_t drop(x_b),   t = task of row b,   s = alpha / rank

A [T, r, d_in] is drawn from U(±1/√d_in) for each task by its name and stays so: two tasks' random
directions are nearly orthogonal, A_t A_uᵀ ≈ 0, so their corrections hardly meet and can be added
up. B [T, d_out, r] starts from 0: the adapted network begins as the frozen one. First B is trained
whole, M = 1 (LoRI-D, ``sparsity: 0``). Then M_t keeps, of the numbers of B_t at *all* sites
together, the share 1 − ``sparsity`` with the largest size, and B is trained again from 0 under the
mask (LoRI-S). Parameters: T·r·d_out for each site, of which that share is heard.

    >>> from plait.adapting.lori import Lori
    >>> Lori(rank=4).trained_on
    Lori(rank=4, alpha=64.0, sparsity=0.0, dropout=0.0, sites=())
    >>> Lori(sparsity=0.0).trained_on is None
    True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.adapting.banks import (
    LowRankBank,
    OwnBank,
    PairBank,
    SecondBank,
    check_low_rank,
    linear_at,
    lora_config,
    low_rank,
    trained_at,
)
from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.method import Card, Law, Paper
from plait.sites import ModuleSite
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Lori(Adapter):
    """LoRI; ``sparsity`` is the share of each task's numbers that its mask leaves out."""

    rank: int = 32
    alpha: float = 64.0
    sparsity: float = 0.9
    dropout: float = 0.0
    sites: Sequence[str] = ()

    card = Card(
        family="adapting",
        name="lori",
        summary="Sparse low-rank corrections through random projections that do not train.",
        paper=Paper(
            title="LoRI: Reducing Cross-Task Interference in Multi-Task Low-Rank Adaptation",
            authors="Juzheng Zhang and Jiacheng You and Ashwinee Panda and Tom Goldstein",
            year=2025,
            venue="COLM",
            url="https://arxiv.org/abs/2504.07448",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "the mask stands in the product; the authors' mask the gradient, which is the same",
            "no task's mask leaves out what another's has, as in the authors' continual runs",
        ),
        exceptions={
            "fresh_adapter_changes_nothing": "the sparse part is trained again from nothing",
        },
    )

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.dropout)
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must be in [0, 1), got {self.sparsity}")

    @property
    def trained_on(self) -> Adapter | None:
        """The adapters without masks, whose sizes make the masks."""
        return replace(self, sparsity=0.0) if self.sparsity else None

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Wrap the linear layers at the sites; ``ValueError`` for a site of another type."""
        if not self.sparsity:
            return put(sites, routing, lambda site: self._dense(site, tasks))
        firsts = [trained_at(site, LowRankBank, "lori") for site in sites]
        masks = _masks([first.stack("up") for first in firsts], 1 - self.sparsity)
        found = {
            site.path: _SparseBank(tasks.names, first, mask, self.dropout)
            for site, first, mask in zip(sites, firsts, masks, strict=True)
        }
        return put(sites, routing, lambda site: found[site.path])

    def _dense(self, site: ModuleSite, tasks: TaskSet) -> SiteBank:
        linear, scale = linear_at(site, "lori", self.rank), self.alpha / self.rank
        return LowRankBank(tasks.names, linear, self.rank, scale, self.dropout, frozen=True)

    def peft_config(self, banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:
        """As LoRA."""
        return lora_config(banks, task, self.dropout)


@torch.no_grad()
def _masks(stacks: Sequence[Tensor], share: float) -> list[Tensor]:
    """For stacks [T, …] at all sites, where each task's ``share`` of the largest numbers is."""
    found = [torch.ones_like(stack, dtype=torch.bool) for stack in stacks]
    for task in range(len(stacks[0])):
        sizes = torch.cat([stack[task].flatten() for stack in stacks]).abs()
        kept = max(1, round(share * len(sizes)))
        least = sizes.kthvalue(len(sizes) - kept + 1).values
        for stack, mask in zip(stacks, found, strict=True):
            mask[task] = stack[task].abs() >= least
    return found


class _SparseBank(SecondBank, PairBank, OwnBank):
    """B [T, d_out, r] and M of one site; A and s are the first stage's."""

    mask: Tensor

    def __init__(
        self, names: Sequence[str], first: LowRankBank, mask: Tensor, dropout: float
    ) -> None:
        super().__init__(names)
        self.first = (first,)  # frozen, and registered by the trunk
        self.dropout = dropout
        self.add("up", *mask.shape[1:])
        self.register_buffer("mask", mask)

    def adapt(self, x: Tensor, y: Tensor, routing: Routing) -> Tensor:
        (first,), task = self.first, routing.task
        down, up, scale, mask = (
            each.index_select(0, task)
            for each in (first.stack("down"), self.stack("up"), first.scale, self.mask)
        )
        return low_rank(F.dropout(x, self.dropout, self.training), y, down, up * mask, scale)

    def pair(self, task: int) -> tuple[Tensor, Tensor]:
        """(A_t, M_t ⊙ B_t)."""
        (first,) = self.first
        return first.stack("down")[task], self.stack("up")[task] * self.mask[task]

    def factor(self, task: int) -> float:
        """The task's s."""
        return self.first[0].factor(task)

    def take(self, task: int, tensors: Mapping[str, Tensor], scale: float) -> None:  # noqa: ARG002
        """Refused: A is the first stage's."""
        raise ValueError("a sparse adapter has its first stage's A; load the file before that")
