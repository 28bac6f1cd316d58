r"""Prompts learnt on another transformer, searched for in this one by what they are near to.

    v_t = argmin_v Σ_sources Σ_i (1 − cos(m ⊙ cos(p_ti, S), m ⊙ cos(ṽ_i, G)))
    ṽ = σ_G (v − mean v) / std v + μ_G

A prompt p [n, d₁] of task t on a source is told by its cosines with the embeddings S [a, d₁] of
anchors: words that both vocabularies have. The prompt here, ṽ [n, d], is searched by Adam to have
the same cosines with their embeddings G [a, d] in this transformer, its numbers spread as those of
all its embeddings (mean μ_G, deviation σ_G). The mask m keeps each vector's ``top`` largest
cosines; 0 keeps all. The losses of several sources are averaged. What was found is the start of
P [T, n, d], which trains on with the heads like any prompt. :meth:`PromptTransfer.begin` searches;
without it prompts start from N(0, 2 / (n + d)). Parameters: T·n·d. Only for transformers.

    >>> from plait.adapting.prompt_transfer import PromptTransfer
    >>> PromptTransfer(sources=["runs/small"], length=5).settings()["steps"]
    2000
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plait.adapting.base import Adapter, SiteBank, outermost, put
from plait.adapting.relative import cosines, search, spread
from plait.adapting.routing import Routing
from plait.adapting.virtual import (
    PromptBank,
    check_room,
    prompt_config,
    transformer_sites,
    words_of,
)
from plait.batch import Batch
from plait.method import Card, Law, Paper
from plait.networks.base import Trunk, normal
from plait.networks.network import Network
from plait.sites import ModuleSite
from plait.task import TaskSet
from plait.weights.files import read_json


@dataclass(frozen=True, kw_only=True)
class PromptTransfer(Adapter):
    """Prompt transfer from the folders ``sources`` of networks with trained prompts.

    ``anchors`` is a JSON file with a row for each anchor: the number of its token in each source's
    vocabulary and last in this one's; empty where all have the same vocabulary.
    """

    sources: Sequence[str] = ()
    anchors: str = ""
    length: int = 5
    top: int = 0
    steps: int = 2000
    rate: float = 0.005
    transformers_only = True

    card = Card(
        family="adapting",
        name="prompt_transfer",
        summary="Prompts of another transformer, searched for in this one by what is near them.",
        paper=Paper(
            title="Zero-Shot Continuous Prompt Transfer: Generalizing Task Semantics Across "
            "Language Models",
            authors="Zijun Wu and Yongkang Wu and Lili Mou",
            year=2024,
            venue="ICLR",
            url="https://arxiv.org/abs/2310.01691",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "the last step counts; the authors keep the best of many by labelled validation rows",
            "what was found trains on, for the heads of tasks need training anyway",
            "each source has its own mask; the authors' code for two uses the second's for both",
        ),
        exceptions={
            "fresh_adapter_changes_nothing": "a prompt is read by the model from the start",
        },
    )

    def __post_init__(self) -> None:
        if self.length < 1 or self.steps < 1 or self.top < 0 or self.rate <= 0:
            raise ValueError(
                "length and steps must be at least 1, top not negative and rate positive, got "
                f"{self.length, self.steps, self.top, self.rate}"
            )

    def choose(self, network: nn.Module) -> list[ModuleSite]:
        """The whole transformers."""
        return transformer_sites(network, self.card.name)

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """A bank before each transformer; ``ValueError`` where it has no room for the prompt."""

        def bank(site: ModuleSite) -> SiteBank:
            check_room(site, self.length, self.card.name)
            width = words_of(site.module).shape[1]
            start = normal((2 / (self.length + width)) ** 0.5)
            return PromptBank(tasks.names, self.length, width, start)

        return put(sites, routing, bank)

    def peft_config(self, banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:
        """As prompt tuning."""
        return prompt_config(banks, task)

    def begin(self, trunk: Trunk, batches: Iterable[Batch]) -> None:  # noqa: ARG002
        """Search for the prompts of the sources; ``ValueError`` where they do not fit."""
        if not self.sources:
            raise ValueError("prompt_transfer needs sources: folders of networks with prompts")
        names = trunk.tasks.names
        known = [_Source.read(folder, names, self.length) for folder in self.sources]
        for layer in outermost(trunk).values():
            assert isinstance(layer.bank, PromptBank)
            words = words_of(layer.frozen).float()
            rows = self._rows([len(one.words) for one in known] + [len(words)]).to(words.device)
            codes = []
            for one, tokens in zip(known, rows.T, strict=False):
                there = one.words.to(words.device)[tokens]
                codes.append(cosines(one.prompts.to(words.device), there))
            prompt = layer.bank.get_parameter("prompt")
            found = search(
                codes, words[rows[:, -1]], prompt.detach().float(), spread(words),
                top=self.top, steps=self.steps, rate=self.rate,
            )  # fmt: skip
            prompt.data.copy_(found)

    def _rows(self, sizes: Sequence[int]) -> Tensor:
        """The anchors' tokens [a, sources + 1] in vocabularies of these sizes."""
        if not self.anchors:
            if len(set(sizes)) > 1:
                raise ValueError(
                    f"prompt_transfer: the vocabularies have {sizes} words; give anchors"
                )
            return torch.arange(sizes[0]).unsqueeze(1).expand(-1, len(sizes))
        rows = torch.tensor(read_json(Path(self.anchors)))
        wanted = (len(sizes),)
        if rows.ndim != 2 or rows.shape[1:] != wanted or (rows >= torch.tensor(sizes)).any():
            raise ValueError(
                f"{self.anchors}: anchors are rows of {len(sizes)} token numbers below {sizes}, "
                f"got {tuple(rows.shape)}"
            )
        return rows


@dataclass(frozen=True)
class _Source:
    """The prompts [T, n, d₁] of the tasks on another transformer, and its embeddings [V, d₁]."""

    prompts: Tensor
    words: Tensor

    @classmethod
    def read(cls, folder: str, names: Sequence[str], length: int) -> _Source:
        """From a network's folder; ``ValueError`` where a task or its prompt is not there."""
        found = outermost(Network.from_pretrained(folder))
        layers = [layer for layer in found.values() if isinstance(layer.bank, PromptBank)]
        if len(layers) != 1:
            raise ValueError(f"{folder} has no network with prompts before one transformer")
        bank = layers[0].bank
        assert isinstance(bank, PromptBank)
        lacking = [name for name in names if name not in bank.names]
        if lacking:
            raise ValueError(f"{folder} has no prompt of task {lacking[0]!r}")
        prompts = bank.stack("prompt").detach()[[bank.names.index(name) for name in names]]
        if prompts.shape[1] != length:
            raise ValueError(f"{folder} has prompts of length {prompts.shape[1]}; set length to it")
        return cls(prompts.float(), words_of(layers[0].frozen).float())
