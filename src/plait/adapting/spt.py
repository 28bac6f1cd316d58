r"""A memory of prompts from which every text brings up the nearest ones.

    states = transformer([w_1 M_1; …; w_k M_k; embed(tokens)]),   M_i the memories with the k
    largest κ_i · q,   w = k · softmax of those,   q = mean of embed(tokens)

for each text. M [E, n, d] are the memories and κ [E, d] their keys; both start from the embeddings
of drawn tokens and train for all tasks: what a text brings up, its own words decide, not its task.
A weight is 1 where the scores are equal; it is what trains the keys, so with ``top: 1`` they stay.
What the transformer says of the prompts is cut off. Parameters: E·(n + 1)·d, whatever the number of
tasks. Only for transformers.

    >>> from plait.adapting.spt import Spt
    >>> Spt(top=2).settings()["memories"]
    20
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plait.adapting.banks import shared
from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.adapting.virtual import check_room, drawn, transformer_sites, with_prompt, words_of
from plait.method import Card, Law, Paper
from plait.sites import ModuleSite
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Spt(Adapter):
    """SPT; ``top`` of the ``memories``, each of ``length`` vectors, are read by a text."""

    memories: int = 20
    length: int = 2
    top: int = 4
    sites: Sequence[str] = ()
    transformers_only = True

    card = Card(
        family="adapting",
        name="spt",
        summary="A memory of prompts from which every text brings up the nearest.",
        paper=Paper(
            title="SPT: Semi-Parametric Prompt Tuning for Multitask Prompted Learning",
            authors="M Saiful Bari and Aston Zhang and Shuai Zheng and Xingjian Shi and Yi Zhu "
            "and Shafiq Joty and Mu Li",
            year=2022,
            url="https://arxiv.org/abs/2212.10929",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "how memories are scored, weighted and started is reconstructed from the abstract",
            "the whole text is the discrete prompt",
        ),
        exceptions={
            "fresh_adapter_changes_nothing": "memories are read by the model from the start",
            "learns": "the texts alone choose what is read, and the toy's tell of no task",
        },
    )

    def __post_init__(self) -> None:
        for name in ("memories", "length", "top"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.top > self.memories:
            raise ValueError(f"top {self.top} is more than the {self.memories} memories")

    def choose(self, network: nn.Module) -> list[ModuleSite]:
        """The whole transformers."""
        return transformer_sites(network, self.card.name, self.sites)

    def attach(
        self,
        sites: Sequence[ModuleSite],
        tasks: TaskSet,  # noqa: ARG002
        routing: Routing,
    ) -> nn.ModuleDict:
        """A memory before each transformer; ``ValueError`` where it has no room for the prompts."""

        def bank(site: ModuleSite) -> SiteBank:
            check_room(site, self.top * self.length, self.card.name)
            return _Memory(words_of(site.module), self)

        return put(sites, routing, bank)


class _Memory(SiteBank):
    """M [E, n, d] and κ [E, d]."""

    def __init__(self, table: Tensor, settings: Spt) -> None:
        super().__init__()
        width = table.shape[1]
        self.top = settings.top
        self.memory = shared(settings.memories, settings.length, width, start=drawn(table))
        self.keys = nn.Parameter(shared(settings.memories, 1, width, start=drawn(table))[:, 0])

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Any:  # noqa: ARG002
        """The states of the texts, with what they bring up before them."""
        tokens, mask = named["input_ids"], named["attention_mask"]
        words = base.get_input_embeddings()(tokens)  # type: ignore[operator]
        return with_prompt(base, self.brought(words, mask), None, **named)

    def brought(self, words: Tensor, mask: Tensor) -> Tensor:
        """The prompts [B, k·n, d] of texts with these embeddings [B, longest, d]."""
        real = mask.to(words.dtype).unsqueeze(2)
        query = (words * real).sum(1) / real.sum(1).clamp(min=1)
        best = torch.topk(query.to(self.keys.dtype) @ self.keys.T, self.top, dim=1)
        weights = self.top * best.values.softmax(1)
        return (self.memory[best.indices] * weights[:, :, None, None]).flatten(1, 2)
