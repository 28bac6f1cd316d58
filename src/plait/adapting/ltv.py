r"""What a task's own texts make attention heads say, weighed and added where each text ends.

    h_{b,last,l} ← h_{b,last,l} + v_{t,l},   v_{t,l} = Σ_h w_{t,l,h} a_{t,l,h},   t = the row's task

at the last real token of every text, after each block l. a [T, H, d] is the mean over the training
texts of task t of what head h says at their last token, mapped through the output projection: a_h =
W_O[:, h] z_h + bias. :meth:`Ltv.begin` finds it, by the frozen network; before that it is 0 and
changes nothing. Only the weights w [T, H] of each block train, from N(0, 1). Parameters: T·L·H.

    >>> from plait.adapting.ltv import Ltv
    >>> sorted(need.value for need in Ltv().card.needs)
    ['features', 'labelled']
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plait.adapting.banks import OwnBank, width_of
from plait.adapting.base import Adapted, Adapter, SiteBank, outermost, put
from plait.adapting.reading import last_of, transformer_of
from plait.adapting.routing import Routing
from plait.adapting.virtual import attention_shape, transformer_sites
from plait.batch import Batch
from plait.method import Card, Law, Need, Paper
from plait.networks.base import Trunk, normal, zeros
from plait.networks.network import evaluating
from plait.sites import ModuleSite, role_sites
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Ltv(Adapter):
    """Learnable task vectors, one after each block at the ``sites``."""

    sites: Sequence[str] = ()
    places = (("block",),)
    types = (nn.Module,)
    transformers_only = True

    card = Card(
        family="adapting",
        name="ltv",
        summary="What a task's texts make attention heads say, weighed and added to its texts.",
        paper=Paper(
            title="Learning Task Representations from In-Context Learning",
            authors="Baturay Saglam and Xinyang Hu and Zhuoran Yang and Dionysis Kalogerias and "
            "Amin Karbasi",
            year=2025,
            url="https://arxiv.org/abs/2502.05390",
        ),
        needs=frozenset({Need.FEATURES, Need.LABELLED}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "a task's texts stand for its prompts; the authors' hold demonstrations with answers",
            "means are of all training texts, once; the authors draw some for every step",
            "heads are mapped as in the authors' regression code, with the bias for each head",
        ),
        exceptions={
            "fresh_adapter_changes_nothing": "weights start from N(0, 1), as published",
            "learns": "a number for each head, at the last word, takes off less than is asked",
        },
    )

    def choose(self, network: nn.Module) -> list[ModuleSite]:
        """The blocks, and the transformers whose texts end somewhere."""
        return [*super().choose(network), *transformer_sites(network, "ltv")]

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Follow the blocks; ``ValueError`` for a site without an output projection."""
        readers = {site.path for site in transformer_sites(sites[0].root, "ltv")}

        def bank(site: ModuleSite) -> SiteBank:
            if site.path in readers:
                return _Last()
            projections = role_sites(site.module, "attention_output")
            if not projections or not isinstance(projections[0].module, nn.Linear):
                raise ValueError(f"ltv follows blocks with attention inside; {site!r} is none")
            width = attention_shape(transformer_of(site, "ltv"))[2]
            return _Vectors(tasks.names, site.module, projections[0].module, width)

        return put(sites, routing, bank)

    @torch.no_grad()
    def begin(self, trunk: Trunk, batches: Iterable[Batch]) -> None:
        """Find what the heads say to each task's texts."""
        found = [_Heads(one) for one in outermost(trunk).values() if isinstance(one.bank, _Vectors)]
        for one in found:
            one.bank.stack("means").zero_()
        hooks = [one.projection.register_forward_pre_hook(one.add) for one in found]
        try:
            with evaluating(trunk):
                for batch in batches:
                    trunk(batch.parts, batch.labels)
        finally:
            for hook in hooks:
                hook.remove()
        for one in found:
            one.bank.stack("means").copy_(one.sums / one.count.clamp(min=1).view(-1, 1, 1))


class _Last(SiteBank):
    """Tells the banks inside where texts end."""

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Any:
        with routing.giving(last=last_of(named["attention_mask"])):
            return base(*inputs, **named)


class _Vectors(OwnBank):
    """w [T, H] and a [T, H, d] of one block."""

    def __init__(
        self, names: Sequence[str], block: nn.Module, projection: nn.Linear, width: int
    ) -> None:
        super().__init__(names)
        heads = projection.in_features // width
        self.add("weights", heads, start=normal(1.0))
        self.draw("means", heads, width_of(block), start=zeros)
        self.projection = (projection,)  # in a tuple: it belongs to the frozen network

    def once(self, present: Tensor) -> Tensor:
        """The present tasks' vectors [T, d]."""
        own = self.stack("weights").masked_fill(~present.unsqueeze(1), 0.0)
        return torch.einsum("th,thd->td", own, self.stack("means"))

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Any:
        found = base(*inputs, **named)
        h, *rest = found if isinstance(found, tuple) else (found,)
        own = routing.made(self).index_select(0, routing.task)
        h = h + routing.given("last").unsqueeze(2) * own.unsqueeze(1)
        return (h, *rest) if isinstance(found, tuple) else h


class _Heads:
    """Σ a [T, H, d] of the texts that reach one block, and their number [T]."""

    def __init__(self, layer: Adapted) -> None:
        assert isinstance(layer.bank, _Vectors)
        self.layer, self.bank = layer, layer.bank
        (self.projection,) = layer.bank.projection
        self.sums = torch.zeros_like(self.bank.stack("means"))
        self.count = self.sums.new_zeros(len(self.sums))

    def add(self, _: nn.Module, inputs: Sequence[Any]) -> None:
        """The output projection begins."""
        task, last = self.layer.routing.task, self.layer.routing.given("last")
        heads = self.sums.shape[1]
        z = (inputs[0] * last.unsqueeze(2)).sum(1).view(len(task), heads, -1)
        weight = self.projection.weight.view(-1, heads, z.shape[2])
        said = torch.einsum("bhw,dhw->bhd", z, weight)
        if self.projection.bias is not None:
            said = said + self.projection.bias
        self.sums.index_add_(0, task, said)
        self.count += torch.bincount(task, minlength=len(self.count))
