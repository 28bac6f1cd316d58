r"""Attention over the trained adapters of all tasks, learnt for each task in a second stage.

    added = W_v Σ_e a_e z_e,   a_e = softmax_e(drop(q · W_k z_e)),   q = W_q h + b_q

for each token h [d], z_e = adapter_e(h) of each task e of the first stage; W_q, W_k, W_v [T, d, d]
and b_q [T, d] are those of the row's task, the adapters z frozen. What is added stands where each
adapter's own output stood. W_q and W_k start from N(0, 0.02²), W_v from the identity with 1e-6
beside the diagonal; the penalty 0.01·Σ‖I − W_v‖² of the present tasks keeps it near. A bias of the
keys would cancel in the softmax. The matrices are applied to h, not to every z:
q · W_k z = (W_kᵀ q) · z. Parameters: T·(3d² + d) for each site, beside the first stage's.

    >>> from plait.adapting.adapter_fusion import AdapterFusion
    >>> AdapterFusion().trained_on.card.name
    'bottleneck'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.adapting.banks import BottleneckBank, OwnBank, trained_at
from plait.adapting.base import Adapted, Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.method import Card, Law, Method, Paper, resolve
from plait.networks.base import normal
from plait.sites import ModuleSite
from plait.task import TaskSet

STD = 0.02  # of the start of W_q and W_k
BESIDE = 1e-6  # beside the diagonal of W_v


@dataclass(frozen=True, kw_only=True)
class AdapterFusion(Adapter):
    """AdapterFusion over the adapters ``sources``; ``dropout`` acts on the scores."""

    sources: Method | str = "bottleneck"
    penalty: float = 0.01
    dropout: float = 0.0
    sites: Sequence[str] = ()
    parts = {"sources": "adapting"}  # noqa: RUF012

    card = Card(
        family="adapting",
        name="adapter_fusion",
        summary="Attention over the trained adapters of all tasks, learnt for each task.",
        paper=Paper(
            title="AdapterFusion: Non-Destructive Task Composition for Transfer Learning",
            authors="Jonas Pfeiffer and Aishwarya Kamath and Andreas Rücklé and Kyunghyun Cho "
            "and Iryna Gurevych",
            year=2021,
            venue="EACL",
            url="https://arxiv.org/abs/2005.00247",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=("the keys have no bias: it cancels in the softmax",),
        exceptions={
            "fresh_adapter_changes_nothing": "it starts from a mixture of the tasks' adapters",
            "more_tasks_change_no_output": "more tasks are more adapters to attend to",
        },
    )

    def __post_init__(self) -> None:
        if self.penalty < 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"penalty must not be negative and dropout in [0, 1), got "
                f"{self.penalty, self.dropout}"
            )

    @property
    def trained_on(self) -> Adapter:
        """The adapters of the first stage."""
        found: Adapter = resolve("adapting", self.sources)
        return found

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Stand where the first stage's adapters stood; ``ValueError`` where they are no such."""

        def bank(site: ModuleSite) -> SiteBank:
            first = trained_at(site, BottleneckBank, "adapter_fusion")
            return _FusionBank(tasks.names, first, self)

        return put(sites, routing, bank)


class _FusionBank(OwnBank):
    """W_q, W_k, W_v [T, d, d] and b_q [T, d] of one site."""

    def __init__(
        self, names: Sequence[str], first: BottleneckBank, settings: AdapterFusion
    ) -> None:
        super().__init__(names)
        d = first.stack("up_bias").shape[1]
        self.first = (first,)  # frozen, and registered by the trunk
        self.dropout, self.strength = settings.dropout, settings.penalty
        self.add("query", d, d, start=normal(STD))
        self.add("query_bias", d)
        self.add("key", d, d, start=normal(STD))
        self.add("value", d, d, start=_near_identity)

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Any:
        (first,) = self.first
        assert isinstance(base, Adapted)
        return first.around(
            base.base, inputs, named, lambda h: self.fused(routing.by_row(h), routing.task)
        )

    def weights(self, h: Tensor, every: Tensor, task: Tensor) -> Tensor:
        """How much of each adapter's output [B, n, E, d] the tokens h [B, n, d] take: [B, n, E]."""
        query, bias, key = (
            self.stack(name).index_select(0, task) for name in ("query", "query_bias", "key")
        )
        asked = torch.bmm(torch.baddbmm(bias.unsqueeze(1), h, query.transpose(1, 2)), key)
        scores = torch.einsum("bnd,bned->bne", asked, every)
        return F.dropout(scores, self.dropout, self.training).softmax(-1)

    def fused(self, h: Tensor, task: Tensor) -> Tensor:
        """What is added to each token [B, n, d]."""
        (first,) = self.first
        every = first.every(h)
        mixed = torch.einsum("bne,bned->bnd", self.weights(h, every, task), every)
        return torch.bmm(mixed, self.stack("value").index_select(0, task).transpose(1, 2))

    def penalty(self, present: Tensor) -> Tensor | None:
        """The distance of the present tasks' W_v from the identity."""
        value = self.stack("value")
        same = torch.eye(value.shape[1], dtype=value.dtype, device=value.device)
        moved = torch.where(present.view(-1, 1, 1), value - same, 0.0)
        return self.strength * moved.square().sum()


def _near_identity(slice_: Tensor, generator: torch.Generator) -> None:  # noqa: ARG001
    slice_.fill_(BESIDE).fill_diagonal_(1.0)
