r"""Vectors of each task before the embeddings of the text.

    states = transformer([P_t; embed(tokens)])[n:],   t = the row's task

P [T, n, d] starts from the embeddings of n tokens drawn for each task. The frozen transformer sees
n more tokens; what it says of them is cut off, so pooling is over the text's own tokens.
Parameters: T·n·d. Only for transformers.

    >>> from plait.adapting.prompt import Prompt
    >>> Prompt(length=5).settings()["length"]
    5
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.adapting.virtual import (
    PromptBank,
    check_room,
    drawn,
    prompt_config,
    transformer_sites,
    words_of,
)
from plait.method import Card, Law, Paper
from plait.networks.base import normal
from plait.sites import ModuleSite
from plait.task import TaskSet

STARTS = ("vocabulary", "normal")


@dataclass(frozen=True, kw_only=True)
class Prompt(Adapter):
    """Prompt tuning; ``start`` is ``vocabulary`` (embeddings of drawn tokens) or ``normal``."""

    length: int = 20
    start: str = "vocabulary"
    sites: Sequence[str] = ()
    transformers_only = True

    card = Card(
        family="adapting",
        name="prompt",
        summary="Vectors of each task before the embeddings of the text.",
        paper=Paper(
            title="The Power of Scale for Parameter-Efficient Prompt Tuning",
            authors="Brian Lester and Rami Al-Rfou and Noah Constant",
            year=2021,
            venue="EMNLP",
            url="https://arxiv.org/abs/2104.08691",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "the start draws from the whole vocabulary, not from its 5,000 most common tokens",
            "what the model says of the prompt itself is not pooled; peft returns it",
        ),
        exceptions={
            "fresh_adapter_changes_nothing": "a prompt is read by the model from the start",
        },
    )

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}")
        if self.start not in STARTS:
            raise ValueError(f"no start {self.start!r}; valid: {', '.join(STARTS)}")

    def choose(self, network: nn.Module) -> list[ModuleSite]:
        """The whole transformers."""
        return transformer_sites(network, self.card.name, self.sites)

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """A bank before each transformer; ``ValueError`` where it has no room for the prompt."""

        def bank(site: ModuleSite) -> SiteBank:
            check_room(site, self.length, self.card.name)
            table = words_of(site.module)
            start = normal(0.5) if self.start == "normal" else drawn(table)
            return PromptBank(tasks.names, self.length, table.shape[1], start)

        return put(sites, routing, bank)

    def peft_config(self, banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:
        """As prompt tuning."""
        return prompt_config(banks, task)
