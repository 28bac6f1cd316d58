r"""A narrow network beside the frozen one for each task, through which alone gradients go.

    s ← Down_1(h_0);   for each layer l:  s ← Block_l((1 − g_l) ⊙ Down_l(h_l) + g_l ⊙ s)
    y = (1 − σ(ζ)) ⊙ (U LN(s) + u) + σ(ζ) ⊙ h_L,   g_l = σ(z_l)

h_0 are the embeddings of a text [n, d] and h_l what layer l says, found without gradients by one
run for all tasks; all else belongs to the row's task. Down is LN(D silu(C h)) with C [k, d] and
D [w, k]; w = d / ``reduction``, at least 8. A block is a transformer's of width w that norms first:
attention over the real tokens with as many heads as the frozen one where they divide w, and a
feed-forward part of its proportions. z [w] starts at 0.5, ζ [d] at 1, matrices from U(±1/√inputs).
The memory of training does not grow with the frozen network's activations.
Parameters: T·(L·(k·(d + w) + 4·w² + 2·w·f + f + 12·w) + w·d + 2·d + 2·w), f inside that part.

    >>> from plait.adapting.qst import Qst
    >>> Qst(reduction=8).settings()["rank"]
    16
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.adapting.banks import OwnBank
from plait.adapting.base import Adapter, put
from plait.adapting.routing import Routing
from plait.adapting.virtual import transformer_sites
from plait.method import Card, Law, Paper
from plait.networks.base import ones, uniform
from plait.sites import ModuleSite
from plait.task import TaskSet

LEAST = 8  # units of a side network: a norm over fewer has little to say


@dataclass(frozen=True, kw_only=True)
class Qst(Adapter):
    """Side tuning; ``reduction`` is d over the side networks' width, ``rank`` that of Down."""

    reduction: int = 16
    rank: int = 16
    sites: Sequence[str] = ()
    transformers_only = True

    card = Card(
        family="adapting",
        name="qst",
        summary="A narrow network beside the frozen one for each task; gradients go there only.",
        paper=Paper(
            title="Quantized Side Tuning: Fast and Memory-Efficient Tuning of Quantized Large "
            "Language Models",
            authors="Zhengxin Zhang and Dan Zhao and Xupeng Miao and Gabriele Oliaro and "
            "Zhihao Zhang and Qing Li and Yong Jiang and Zhihao Jia",
            year=2024,
            venue="ACL",
            url="https://arxiv.org/abs/2401.07159",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "side blocks are of one kind for every frozen network, which they copy in the paper",
            "the frozen weights are in the precision of the network that is given",
            "checkpointing changes nothing; the authors' branch for it leaves out the gates",
        ),
        exceptions={
            "fresh_adapter_changes_nothing": "a side network is part of the output from the start",
        },
    )

    def __post_init__(self) -> None:
        if self.reduction < 1 or self.rank < 1:
            raise ValueError(
                f"reduction and rank must be at least 1, got {self.reduction, self.rank}"
            )

    def choose(self, network: nn.Module) -> list[ModuleSite]:
        """The whole transformers."""
        return transformer_sites(network, self.card.name, self.sites)

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Side networks beside each transformer."""
        return put(sites, routing, lambda site: _SideBank(tasks.names, site.module.config, self))


class _SideBank(OwnBank):
    """The side networks of all tasks beside one transformer, L layers of them."""

    def __init__(self, names: Sequence[str], config: Any, settings: Qst) -> None:
        super().__init__(names)
        d, self.layers = int(config.hidden_size), int(config.num_hidden_layers)
        if settings.rank > d:
            raise ValueError(f"qst: rank {settings.rank} is above the width {d} of the transformer")
        w = max(LEAST, d // settings.reduction)
        f = max(LEAST, w * int(getattr(config, "intermediate_size", 4 * d)) // d)
        self.heads = math.gcd(w, int(config.num_attention_heads))
        for layer in range(self.layers):
            self._linear(f"narrow{layer}", settings.rank, d, bias=False)
            self._linear(f"down{layer}", w, settings.rank, bias=False)
            self._norm(f"down_norm{layer}", w)
            self.add(f"gate{layer}", w, start=_half)
            self._norm(f"first_norm{layer}", w)
            self._linear(f"read{layer}", 3 * w, w)
            self._linear(f"told{layer}", w, w)
            self._norm(f"second_norm{layer}", w)
            self._linear(f"inner{layer}", f, w)
            self._linear(f"outer{layer}", w, f)
        self._norm("last_norm", w)
        self._linear("wide", d, w)
        self.add("share", d, start=ones)

    def _linear(self, name: str, outside: int, inside: int, *, bias: bool = True) -> None:
        self.add(name, outside, inside, start=uniform(inside))
        if bias:
            self.add(f"{name}_bias", outside)

    def _norm(self, name: str, width: int) -> None:
        self.add(name, width, start=ones)
        self.add(f"{name}_bias", width)

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Any:
        """The states of the texts, the side network of each row's task in them."""
        with torch.no_grad():
            found = base(*inputs, **named, output_hidden_states=True)
        states, task = found.hidden_states, routing.task
        mask = named["attention_mask"].bool()[:, None, None, :]
        linear, norm = partial(self._by_row, task), partial(self._normed, task)

        def down(layer: int, h: Tensor) -> Tensor:
            narrow = F.silu(linear(f"narrow{layer}", h))
            return norm(f"down_norm{layer}", linear(f"down{layer}", narrow))

        side = down(0, states[0])
        for layer, h in enumerate(states[1:]):
            gate = self._own(task, f"gate{layer}").sigmoid()
            side = (1 - gate) * down(layer, h) + gate * side
            read = linear(f"read{layer}", norm(f"first_norm{layer}", side))
            side = side + linear(f"told{layer}", self._attended(read, mask))
            inner = F.gelu(linear(f"inner{layer}", norm(f"second_norm{layer}", side)))
            side = side + linear(f"outer{layer}", inner)
        share = self._own(task, "share").sigmoid()
        return ((1 - share) * linear("wide", norm("last_norm", side)) + share * found[0],)

    def _attended(self, read: Tensor, mask: Tensor) -> Tensor:
        """Attention over the real tokens for queries, keys and values [B, n, 3w]."""
        query, key, value = read.view(*read.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return found.transpose(1, 2).flatten(2)

    def _own(self, task: Tensor, name: str) -> Tensor:
        """The rows' vectors of that name [B, 1, w]."""
        return self.stack(name).index_select(0, task).unsqueeze(1)

    def _by_row(self, task: Tensor, name: str, x: Tensor) -> Tensor:
        """The rows' linear layer of that name [B, n, inside] → [B, n, outside]."""
        weight = self.stack(name).index_select(0, task).transpose(1, 2)
        if f"{name}_bias" in self.starts:
            return torch.baddbmm(self._own(task, f"{name}_bias"), x, weight)
        return torch.bmm(x, weight)

    def _normed(self, task: Tensor, name: str, x: Tensor) -> Tensor:
        """The rows' layer norm of that name."""
        plain = F.layer_norm(x, x.shape[-1:])
        return plain * self._own(task, name) + self._own(task, f"{name}_bias")


def _half(slice_: Tensor, generator: torch.Generator) -> None:  # noqa: ARG001
    slice_.fill_(0.5)
