r"""Low-rank experts of which each text opens one, beside one that serves every text.

    y = W₀ x + g · E_m x + (1 − g) · E_0 x,   p = softmax((W_G e + ε) / τ),   m = argmax p, g = p_m

for each token x of a text with e [d] the mean of its embedded words, E = s · B A drop(x) of rank r,
s = alpha / rank, ε ~ N(0, ``noise``²) in training. All tokens of a text take the same expert; g is
not renormalised, and what the n experts do not get goes to the general expert E_0. At attention's
output and the first matrix of the feed-forward part a gate W_G [n, d] stands; the part's other
matrices take the gate of the first; queries, keys and values have one LoRA. All tasks share these
parameters. The first stage trains one LoRA at each site; the second starts every expert from it, so
that it begins as the first ended, and trains experts and gates (W_G from U(±1/√d)). From the step
``settled`` on the gates are frozen, the paper's third stage. Parameters of the second stage:
r·(d_in + d_out) for each site without experts, (n + 1)·r·(d_in + d_out) with them, n·d for a gate.

    >>> from plait.adapting.awaker_moe import AwakerMoe
    >>> AwakerMoe().trained_on.settings()["stage"]
    1
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.adapting.banks import (
    CommonLowRankBank,
    SecondBank,
    check_low_rank,
    gated,
    linear_at,
    shared,
    trained_at,
)
from plait.adapting.base import Adapted, Adapter, SiteBank, put
from plait.adapting.reading import word_width, words_mean
from plait.adapting.routing import Routing
from plait.adapting.virtual import transformer_sites
from plait.method import Card, Law, Paper
from plait.networks.base import uniform
from plait.sites import ModuleSite, has_role
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class AwakerMoe(Adapter):
    """Awaker's mixture; ``experts`` beside the general one, ``temperature`` τ of the gates."""

    stage: int = 2
    experts: int = 4
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    temperature: float = 1.0
    noise: float = 0.1
    settled: int = 0
    places = (("query", "key", "value", "attention_output", "inner", "outer"),)
    transformers_only = True

    card = Card(
        family="adapting",
        name="awaker_moe",
        summary="Low-rank experts of which each text opens one, beside a general one.",
        paper=Paper(
            title="Awaker2.5-VL: Stably Scaling MLLMs with Parameter-Efficient Mixture of Experts",
            authors="Jinqiang Long and Yanqi Dai and Guoxing Yang and Hongpeng Lin and Nanyi Fei "
            "and Yizhao Gao and Zhiwu Lu",
            year=2024,
            url="https://arxiv.org/abs/2411.10669",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "on texts alone; gates read the mean of the embedded words, the paper names no pooling",
            "noise acts in training only, which the paper leaves open",
            "the third stage goes on from the second's steps, with its rate",
            "rank 8 without dropout by default; the paper has 256 and 0.05 in a large model",
        ),
    )

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.dropout)
        if self.stage not in (1, 2):
            raise ValueError(f"stage must be 1 or 2, got {self.stage}")
        if self.experts < 1:
            raise ValueError(f"experts must be at least 1, got {self.experts}")
        if self.temperature <= 0 or self.noise < 0 or self.settled < 0:
            raise ValueError(
                "temperature must be positive, noise and settled not negative, got "
                f"{self.temperature, self.noise, self.settled}"
            )

    @property
    def trained_on(self) -> Adapter | None:
        """The first stage, for the second."""
        return replace(self, stage=1) if self.stage == 2 else None

    def choose(self, network: nn.Module) -> list[ModuleSite]:
        """The linear layers of the blocks, and the transformers whose words are read."""
        readers = transformer_sites(network, "awaker_moe")
        return [*super().choose(network), *(readers if self.stage == 2 else [])]

    def attach(
        self,
        sites: Sequence[ModuleSite],
        tasks: TaskSet,  # noqa: ARG002
        routing: Routing,
    ) -> nn.ModuleDict:
        """Put one LoRA at each site, or the experts that start from it."""
        if self.stage == 1:
            return put(sites, routing, self._first)
        gates = _gates([site.path for site in sites if isinstance(site.module, Adapted)])
        count = len({number for number in gates.values() if number is not None})

        def bank(site: ModuleSite) -> SiteBank:
            if site.path in gates:
                first = trained_at(site, CommonLowRankBank, "awaker_moe")
                return _Experts(first, self, gates[site.path])
            return _Gates(count, word_width(site), self)

        return put(sites, routing, bank)

    def _first(self, site: ModuleSite) -> SiteBank:
        linear, scale = linear_at(site, "awaker_moe", self.rank), self.alpha / self.rank
        return CommonLowRankBank(linear, self.rank, scale, self.dropout)


def _gates(paths: Sequence[str]) -> dict[str, int | None]:
    """The gate that each site takes, by number; None for one without experts."""
    found: dict[str, int | None] = {}
    inside: dict[str, int] = {}  # a block's gate of its feed-forward part
    count = 0
    for path in paths:
        block = re.match(r"(.*?\.)?\d+(?=\.)", path)
        part = block[0] if block else path
        feeds = has_role(path, "inner") or has_role(path, "outer")
        if feeds and part in inside:
            found[path] = inside[part]
        elif feeds or has_role(path, "attention_output"):
            found[path] = count
            if feeds:
                inside[part] = count
            count += 1
        else:
            found[path] = None
    return found


class _Gates(SiteBank):
    """W_G [gates, n, d] of one transformer."""

    def __init__(self, count: int, width: int, settings: AwakerMoe) -> None:
        super().__init__()
        self.settings, self.frozen = settings, False
        self.gate = shared(count, settings.experts, width, start=uniform(width))

    def advance(self, step: int) -> None:
        """The gates are frozen once they have settled."""
        self.frozen = 0 < self.settings.settled <= step

    def gates(self, text: Tensor) -> Tensor:
        """The weights [B, gates, n + 1] of each expert, and of the general one."""
        gate = self.gate.detach() if self.frozen else self.gate
        logits = torch.einsum("bd,gnd->bgn", text, gate)
        if self.training and not self.frozen:
            logits = logits + self.settings.noise * torch.randn_like(logits)
        shares = (logits / self.settings.temperature).softmax(-1)
        best, chosen = shares.max(-1, keepdim=True)
        return torch.cat([torch.zeros_like(shares).scatter(-1, chosen, best), 1 - best], -1)

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Any:
        text = words_mean(base, named["input_ids"], named["attention_mask"])
        with routing.giving(experts=self.gates(text)):
            return base(*inputs, **named)


class _Experts(SecondBank):
    """A [n + 1, r, d_in] and B [n + 1, d_out, r] of one site, or one of each."""

    def __init__(self, first: CommonLowRankBank, settings: AwakerMoe, gate: int | None) -> None:
        super().__init__()
        self.gate, self.scale, self.dropout = gate, first.scale, first.dropout
        count = 1 if gate is None else settings.experts + 1
        self.down = nn.Parameter(first.down.detach().repeat(count, 1, 1))
        self.up = nn.Parameter(first.up.detach().repeat(count, 1, 1))

    def adapt(self, x: Tensor, y: Tensor, routing: Routing) -> Tensor:
        if self.gate is None:
            gates = x.new_ones(len(x), 1, 1)
        else:
            gates = routing.given("experts")[:, self.gate].unsqueeze(1)
        x = F.dropout(x, self.dropout, self.training)
        return gated(x, y, self.down, self.up, self.scale * gates)
