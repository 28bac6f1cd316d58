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

import torch
from torch import Tensor, nn

from plait.adapting.banks import OwnBank
from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.adapting.virtual import check_room, transformer_sites, with_prompt
from plait.method import Card, Law, Paper
from plait.networks.base import Start, normal
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
            table = site.module.get_input_embeddings().weight.detach()  # type: ignore[operator]
            start = normal(0.5) if self.start == "normal" else _drawn(table)
            return _PromptBank(tasks.names, self.length, table.shape[1], start)

        return put(sites, routing, bank)

    def peft_config(self, banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:
        """As prompt tuning."""
        (bank,) = banks.values()
        length, width = bank.exported(task)["prompt_embeddings"].shape
        return {
            "peft_type": "PROMPT_TUNING", "num_virtual_tokens": length, "token_dim": width,
            "num_transformer_submodules": 1, "prompt_tuning_init": "RANDOM",
        }  # fmt: skip


def _drawn(table: Tensor) -> Start:
    """Start from rows of an embedding table [vocabulary, d]."""

    def start(slice_: Tensor, generator: torch.Generator) -> None:
        rows = torch.randint(len(table), (len(slice_),), generator=generator)
        slice_.copy_(table[rows.to(table.device)])

    return start


class _PromptBank(OwnBank):
    """P [T, n, d], and which of its vectors a task has (files may bring fewer)."""

    def __init__(self, names: Sequence[str], length: int, width: int, start: Start) -> None:
        super().__init__(names)
        self.add("prompt", length, width, start=start)
        self.note("length", float(length))

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Any:  # noqa: ARG002
        task = routing.task
        own = self.stack("prompt").index_select(0, task)
        length = self.get_buffer("length").index_select(0, task)
        return with_prompt(base, own, length, **named)

    def exported(self, task: int) -> Mapping[str, Tensor]:
        """The prompt under peft's name."""
        length = int(self.get_buffer("length")[task])
        return {"prompt_embeddings": self.stack("prompt")[task, :length]}

    @torch.no_grad()
    def take(self, task: int, tensors: Mapping[str, Tensor], scale: float) -> None:  # noqa: ARG002
        """A prompt of at most this length; the vectors it lacks are not read."""
        own, given = self.stack("prompt")[task], tensors["prompt_embeddings"]
        if given.shape[1] != own.shape[1] or len(given) > len(own):
            raise ValueError(f"the file has {tuple(given.shape)}, the network {tuple(own.shape)}")
        own.zero_()
        own[: len(given)] = given
        self.get_buffer("length")[task] = len(given)
