r"""An offset of the few attention heads that matter most for a task.

    z_{l,h} ← z_{l,h} + v_{t,l,h}   for the heads h of blocks l that task t chose

z [d / H] is what a head says before the output projection, t the row's task. A first stage trains
scales at all heads, z ← (1 + A) ⊙ z, with λ·Σ|A| added to the loss; the task's heads are the
``share`` with the largest ‖A_{t,l,h}‖, and then A is thrown away. A and v start from N(0, 0.001²):
the adapted network begins near the frozen one. Parameters: K·d/H a task, K = share · L·H; in the
first stage L·d. An offset is as good as a bias W_O v, so a task can be folded into the weights.

    >>> from plait.adapting.lofit import LoFit
    >>> LoFit().trained_on.settings()["part"]
    'scales'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from plait.adapting.banks import OwnBank, linear_at, trained_at
from plait.adapting.base import Adapted, Adapter, SiteBank, put
from plait.adapting.reading import transformer_of
from plait.adapting.routing import Routing
from plait.adapting.virtual import attention_shape
from plait.method import Card, Law, Paper, did_you_mean
from plait.networks.base import normal
from plait.sites import ModuleSite
from plait.task import TaskSet

PARTS = ("offsets", "scales")
STD = 0.001  # of both starts


@dataclass(frozen=True, kw_only=True)
class LoFit(Adapter):
    """LoFiT; ``part`` is ``offsets``, or ``scales`` for the first stage, with ``sparsity`` λ."""

    part: str = "offsets"
    share: float = 0.03
    sparsity: float = 0.001
    sites: Sequence[str] = ()
    places = (("attention_output",),)
    transformers_only = True

    card = Card(
        family="adapting",
        name="lofit",
        summary="An offset of the few attention heads that matter most for a task.",
        paper=Paper(
            title="LoFiT: Localized Fine-tuning on LLM Representations",
            authors="Fangcong Yin and Xi Ye and Greg Durrett",
            year=2024,
            venue="NeurIPS",
            url="https://arxiv.org/abs/2406.01563",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        exceptions={
            "fresh_adapter_changes_nothing": "offsets start from noise in place of scales",
            "learns": "one head of eight numbers takes off less than the law asks",
        },
    )

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ValueError(f"no part {self.part!r}{did_you_mean(self.part, PARTS)}")
        if not 0 < self.share <= 1 or self.sparsity < 0:
            raise ValueError(
                f"share must lie in (0, 1] and sparsity not be negative, got "
                f"{self.share, self.sparsity}"
            )

    @property
    def trained_on(self) -> Adapter | None:
        """The scales, for the offsets."""
        return replace(self, part="scales") if self.part == "offsets" else None

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Scale all heads before the output projections, or move the chosen ones."""
        if self.part == "scales":

            def scales(site: ModuleSite) -> SiteBank:
                width = attention_shape(transformer_of(site, "lofit"))[2]
                return _Scales(tasks.names, linear_at(site, "lofit"), width, self.sparsity)

            return put(sites, routing, scales)
        firsts: list[_Scales] = [trained_at(site, _Scales, "lofit") for site in sites]
        offsets = _Offsets(tasks.names, firsts, self.share).like(sites[0].module)
        order = {site.path: number for number, site in enumerate(sites)}
        return put(sites, routing, lambda site: _Moved(offsets, order[site.path]), offsets=offsets)


class _Scales(OwnBank):
    """A [T, H, d/H] of one block."""

    def __init__(
        self, names: Sequence[str], linear: nn.Linear, width: int, sparsity: float
    ) -> None:
        super().__init__(names)
        self.sparsity = sparsity
        self.add("scales", linear.in_features // width, width, start=normal(STD))

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Tensor:  # noqa: ARG002
        (z,) = inputs
        own = 1 + self.stack("scales").index_select(0, routing.task).flatten(1)
        found: Tensor = base((routing.by_row(z) * own.unsqueeze(1)).view(z.shape))
        return found

    def penalty(self, present: Tensor) -> Tensor | None:
        """λ times the sum of the present tasks' |A|."""
        own = self.stack("scales").masked_fill(~present.view(-1, 1, 1), 0.0)
        return self.sparsity * own.abs().sum()

    def fold(self, base: nn.Module, task: int) -> Mapping[str, Tensor]:
        """The columns of the projection, scaled."""
        own = 1 + self.stack("scales")[task].flatten()
        return {"weight": base.get_parameter("weight") * own}


class _Offsets(OwnBank):
    """v [T, K, d/H] of all blocks, and the heads [T, K] where they stand, numbered through."""

    heads: Tensor

    def __init__(self, names: Sequence[str], firsts: Sequence[_Scales], share: float) -> None:
        super().__init__(names)
        shapes = {tuple(first.stack("scales").shape[1:]) for first in firsts}
        if len(shapes) > 1:
            raise ValueError(f"lofit needs heads of one shape, and these blocks have {shapes}")
        ((self.each, width),) = shapes
        scales = torch.stack([first.stack("scales").detach() for first in firsts], 1)
        sizes = scales.norm(dim=3).flatten(1)
        chosen = max(1, round(share * sizes.shape[1]))
        self.total = sizes.shape[1]
        self.register_buffer("heads", sizes.topk(chosen, dim=1).indices)
        self.add("offsets", chosen, width, start=normal(STD))

    def once(self, present: Tensor) -> Tensor:  # noqa: ARG002
        """As :meth:`every`."""
        return self.every()

    def every(self) -> Tensor:
        """The offsets at all heads [T, L, d], 0 where a task has none."""
        own = self.stack("offsets")
        places = self.heads.unsqueeze(2).expand_as(own)
        every = own.new_zeros(len(own), self.total, own.shape[2]).scatter(1, places, own)
        return every.view(len(own), -1, self.each * own.shape[2])


class _Moved(SiteBank):
    """One block's view of the offsets."""

    def __init__(self, offsets: _Offsets, number: int) -> None:
        super().__init__()
        self.offsets = (offsets,)  # in a tuple: they are registered once, beside the banks
        self.number = number

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Tensor:  # noqa: ARG002
        (z,), (offsets,) = inputs, self.offsets
        assert isinstance(base, Adapted)
        own = routing.made(offsets)[:, self.number].index_select(0, routing.task)
        found: Tensor = base.frozen((routing.by_row(z) + own.unsqueeze(1)).view(z.shape))
        return found

    def fold(self, base: nn.Module, task: int) -> Mapping[str, Tensor]:
        """W_O v, added to the bias."""
        frozen, (offsets,) = dict(base.named_parameters()), self.offsets
        if "bias" not in frozen:
            raise ValueError("an offset becomes a bias, and the output projection has none")
        own = offsets.every()[task, self.number]
        return {"bias": frozen["bias"] + frozen["weight"] @ own}
