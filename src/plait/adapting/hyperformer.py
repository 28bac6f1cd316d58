r"""Bottlenecks that one small network writes for each task, layer and place.

    h ← h + γ ⊙ LN(U gelu(D h + b) + b′) + β
    (D, b, U, b′, γ, β) = G I + g,   I = LN(W₂ relu(W₁ [e_t; l_i; p_j] + w₁) + w₂)

for each token h [d], with t the row's task, i the block and j the place in it: what attention or
the feed-forward part says, before it is added to the stream. D [m, d], b [m], U [d, m], b′, γ and
β [d] are cut from one vector of 2md + m + 3d numbers. LN is a layer norm, with weights for I alone.
The embeddings e [T, k], l [L, k] and p [2, k] start from N(0, 1), W₁ [hidden, 3k], W₂ [k′, hidden]
and G from N(0, 0.01²), the biases from 0: γ is near 0, so the adapted network begins near the
frozen one. This is HyperFormer++. ``kind="hyperformer"`` has no p, and generators for each place.
What is written is worked out once a forward for all present tasks, never for each row. The norms of
the transformer train too, for all tasks together. Parameters: (k′ + 1)·(2md + m + 3d), that twice
for ``hyperformer``, beside (T + L + 2)·k and the projection; a task more costs k.

    >>> from plait.adapting.hyperformer import Hyperformer
    >>> Hyperformer(reduction=16).settings()["kind"]
    'hyperformer++'
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.adapting.banks import LinearBank, linear_at, shared
from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.method import Card, Law, Paper, did_you_mean
from plait.networks.base import TaskBank, normal
from plait.sites import ModuleSite, has_role, role_sites
from plait.task import TaskSet

KINDS = ("hyperformer++", "hyperformer")
STD = 0.01  # of the start of every matrix


@dataclass(frozen=True, kw_only=True)
class Hyperformer(Adapter):
    """HyperFormer; ``width`` is that of the embeddings, ``projected`` that of I."""

    kind: str = "hyperformer++"
    reduction: int = 32
    width: int = 64
    hidden: int = 128
    projected: int = 64
    norms: bool = True
    sites: Sequence[str] = ()
    places = (("attention_output", "outer"),)
    transformers_only = True

    card = Card(
        family="adapting",
        name="hyperformer",
        summary="Bottlenecks that one small network writes for each task, layer and place.",
        paper=Paper(
            title="Parameter-efficient Multi-task Fine-tuning for Transformers via Shared "
            "Hypernetworks",
            authors="Rabeeh Karimi Mahabadi and Sebastian Ruder and Mostafa Dehghani and "
            "James Henderson",
            year=2021,
            venue="ACL",
            url="https://arxiv.org/abs/2106.04489",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "one network writes for all transformers; in T5 encoder and decoder have their own",
        ),
        exceptions={
            "fresh_adapter_changes_nothing": "the scales that are written start near 0, not at it",
            "only_banks_train": "the norms of the transformer train too, as published",
            "learns": "the law's rate is a hundred times the published one; at 0.003 it learns",
        },
    )

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no kind {self.kind!r}{did_you_mean(self.kind, KINDS)}")
        for name in ("reduction", "width", "hidden", "projected"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Follow the linear layers at the sites; ``ValueError`` where their widths differ."""
        widths = {linear_at(site, "hyperformer").out_features for site in sites}
        if len(widths) > 1:
            raise ValueError(f"hyperformer needs sites of one width, and these give {widths}")
        places = list(_places(sites))
        maker = _Maker(tasks.names, places, widths.pop(), self).like(sites[0].module)
        if self.norms:
            for norm in role_sites(sites[0].root, "norm"):
                norm.module.requires_grad_(True)
        order = {site.path: number for number, site in enumerate(sites)}
        return put(sites, routing, lambda site: _Written(maker, order[site.path]), maker=maker)


def _places(sites: Sequence[ModuleSite]) -> Iterator[tuple[int, int]]:
    """(block, place) of each site, the place 1 after attention and else 0.

    A layer that is no such part of a block counts as a block.
    """
    blocks: dict[str, int] = {}
    for site in sites:
        after = has_role(site.path, "attention_output")
        inside = re.match(r"(.*?\.)?\d+(?=\.)", site.path)
        known = inside if after or has_role(site.path, "outer") else None
        yield blocks.setdefault(known[0] if known else site.path, len(blocks)), int(after)


class _Maker(SiteBank):
    """The embeddings e [T, k], l [L, k] and p [2, k], their projection and the generators."""

    places: Tensor

    def __init__(
        self,
        names: Sequence[str],
        places: Sequence[tuple[int, int]],
        d: int,
        settings: Hyperformer,
    ) -> None:
        super().__init__()
        k, inner, one = settings.width, max(1, d // settings.reduction), settings.kind == KINDS[0]
        self.shapes = ((inner, d), (inner,), (d, inner), (d,), (d,), (d,))
        total = 2 * inner * d + inner + 3 * d
        self.own = TaskBank(names)
        self.own.add("embedding", k, start=normal(1.0))
        self.layers = shared(1 + max(layer for layer, _ in places), k, start=normal(1.0))
        self.positions = shared(2, k, start=normal(1.0)) if one else None
        self.first = _linear((3 if one else 2) * k, settings.hidden)
        self.second = _linear(settings.hidden, settings.projected)
        self.norm = nn.LayerNorm(settings.projected, eps=1e-6)
        sets = 1 if one else 1 + max(place for _, place in places)
        self.generator = shared(sets, total, settings.projected, start=normal(STD))
        self.generator_bias = nn.Parameter(torch.zeros(sets, total))
        self.register_buffer("places", torch.tensor(places), persistent=False)

    def once(self, present: Tensor) -> Tensor:
        """What is written for each site and present task [S, T, total]."""
        tasks = self.own.stack("embedding").masked_fill(~present.unsqueeze(1), 0.0)
        layer, place = self.places.unbind(1)
        known = [tasks.unsqueeze(0), self.layers[layer].unsqueeze(1)]
        if self.positions is not None:
            known.append(self.positions[place].unsqueeze(1))
        count = (len(layer), len(tasks))
        joined = torch.cat([each.expand(*count, each.shape[-1]) for each in known], -1)
        read = self.norm(self.second(self.first(joined).relu()))
        if len(self.generator) == 1:
            return F.linear(read, self.generator[0], self.generator_bias[0])
        weight, bias = self.generator[place], self.generator_bias[place]
        return torch.baddbmm(bias.unsqueeze(1), read, weight.transpose(1, 2))

    def cut(self, written: Tensor) -> list[Tensor]:
        """[B, total] → D, b, U, b′, γ and β of each row."""
        sizes = [torch.Size(shape).numel() for shape in self.shapes]
        pieces = torch.split(written, sizes, dim=1)
        return [p.reshape(-1, *shape) for p, shape in zip(pieces, self.shapes, strict=True)]


def _linear(inside: int, outside: int) -> nn.Linear:
    found = nn.Linear(inside, outside)
    nn.init.normal_(found.weight, std=STD)
    nn.init.zeros_(found.bias)
    return found


class _Written(LinearBank):
    """What stands at one site: nothing of its own, but what is written for it."""

    def __init__(self, maker: _Maker, number: int) -> None:
        super().__init__()
        self.maker = (maker,)  # in a tuple: it is registered once, beside the banks
        self.number = number

    def adapt(self, x: Tensor, y: Tensor, routing: Routing) -> Tensor:  # noqa: ARG002
        (maker,) = self.maker
        written = routing.made(maker)[self.number].index_select(0, routing.task)
        down, b, up, b_up, gain, shift = maker.cut(written)
        inner = torch.baddbmm(b.unsqueeze(1), y, down.transpose(1, 2))
        inner = F.gelu(inner, approximate="tanh")
        found = torch.baddbmm(b_up.unsqueeze(1), inner, up.transpose(1, 2))
        return y + gain.unsqueeze(1) * F.layer_norm(found, found.shape[-1:]) + shift.unsqueeze(1)
