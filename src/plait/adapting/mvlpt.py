r"""One prompt learnt on all tasks together, from which the prompt of each group of tasks starts.

    states = transformer([P_g; embed(tokens)])[n:],   g = the group of the row's task

First (``stage: source``) all tasks share one prompt P [n, d], which starts from N(0, 0.02²). Then
every group has its own P_g, a copy of what the first stage learnt, that its tasks train together:
``groups`` are lists of tasks; a task in none is a group of its own. What the transformer says of
the prompts is cut off. Parameters: n·d at first, then G·n·d. Only for transformers.

    >>> from plait.adapting.mvlpt import Mvlpt
    >>> Mvlpt(length=5).trained_on
    Mvlpt(length=5, groups=(), stage='source', sites=())
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from plait.adapting.banks import trained_at
from plait.adapting.base import Adapted, Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.adapting.virtual import (
    check_room,
    prompt_config,
    transformer_sites,
    with_prompt,
    words_of,
)
from plait.method import Card, Law, Paper, did_you_mean
from plait.networks.base import Bank, Start, TaskBank, normal
from plait.sites import ModuleSite
from plait.task import TaskSet

STAGES = ("source", "target")
STD = 0.02  # of the start of the shared prompt


@dataclass(frozen=True, kw_only=True)
class Mvlpt(Adapter):
    """Multitask prompt tuning of groups; ``stage`` is ``source`` or ``target``."""

    length: int = 8
    groups: Sequence[Sequence[str]] = ()
    stage: str = "target"
    sites: Sequence[str] = ()
    transformers_only = True

    card = Card(
        family="adapting",
        name="mvlpt",
        summary="One prompt of all tasks, from which the prompts of groups of tasks start.",
        paper=Paper(
            title="Multitask Vision-Language Prompt Tuning",
            authors="Sheng Shen and Shijia Yang and Tianjun Zhang and Bohan Zhai and "
            "Joseph E. Gonzalez and Kurt Keutzer and Trevor Darrell",
            year=2024,
            venue="WACV",
            url="https://arxiv.org/abs/2211.11720",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "prompts stand before the text, as CoOp's; none are at the layers of a second tower",
            "the small transformer that joins the prompts of two towers is not here",
        ),
        exceptions={
            "fresh_adapter_changes_nothing": "a prompt is read by the model from the start",
        },
    )

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}")
        if self.stage not in STAGES:
            raise ValueError(f"no stage {self.stage!r}{did_you_mean(self.stage, STAGES)}")
        several = [name for group in self.groups for name in group]
        for name in several:
            if several.count(name) > 1:
                raise ValueError(f"task {name!r} is in several groups")

    @property
    def trained_on(self) -> Adapter | None:
        """The prompt of all tasks, from which those of groups start."""
        return replace(self, groups=(), stage="source") if self.stage == "target" else None

    def choose(self, network: nn.Module) -> list[ModuleSite]:
        """The whole transformers."""
        if self.trained_on is not None:
            return super().choose(network)
        return transformer_sites(network, self.card.name, self.sites)

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """A bank before each transformer; ``ValueError`` for an unknown task in a group."""

        def first(site: ModuleSite) -> SiteBank:
            check_room(site, self.length, self.card.name)
            width = words_of(site.module).shape[1]
            return _GroupBank(tasks.names, [tasks.names], self.length, width, normal(STD))

        def second(site: ModuleSite) -> SiteBank:
            learnt = trained_at(site, _GroupBank, "mvlpt").bank.stack("prompt")[0].detach()
            groups = self._grouped(tasks)
            length, width = learnt.shape
            return _GroupBank(tasks.names, groups, length, width, _copies(learnt))

        return put(sites, routing, first if self.stage == "source" else second)

    def _grouped(self, tasks: TaskSet) -> list[Sequence[str]]:
        """All groups, in the order of their first tasks."""
        named = {name: tuple(group) for group in self.groups for name in group}
        for name in named:
            if name not in tasks.position:
                raise ValueError(f"groups name no task {name!r}{did_you_mean(name, tasks.names)}")
        return list(dict.fromkeys(named.get(name, (name,)) for name in tasks.names))

    def peft_config(self, banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:
        """As prompt tuning."""
        return prompt_config(banks, task)


def _copies(learnt: Tensor) -> Start:
    """Start from a prompt [n, d] that was learnt."""

    def start(slice_: Tensor, generator: torch.Generator) -> None:  # noqa: ARG001
        slice_.copy_(learnt)

    return start


class _GroupBank(SiteBank):
    """P [G, n, d] before one transformer, and the group of each task; one group has all tasks."""

    where: Tensor | None

    def __init__(
        self,
        names: Sequence[str],
        groups: Sequence[Sequence[str]],
        length: int,
        width: int,
        start: Start,
    ) -> None:
        super().__init__()
        if len(groups) == 1:
            self.bank = Bank([None])
        elif len(groups) == len(names):
            self.bank = TaskBank(names)
        else:
            about, trainers = [min(group) for group in groups], [frozenset(g) for g in groups]
            self.bank = Bank([None] * len(groups), about, trainers)
        self.bank.add("prompt", length, width, start=start)
        places = {name: place for place, group in enumerate(groups) for name in group}
        where = None if len(groups) == 1 else torch.tensor([places[name] for name in names])
        self.register_buffer("where", where, persistent=False)

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Any:  # noqa: ARG002
        """The states of the texts, with their groups' prompts before them."""
        frozen = base.frozen if isinstance(base, Adapted) else base
        return with_prompt(frozen, self.prompts(routing.task), None, **named)

    def prompts(self, task: Tensor) -> Tensor:
        """P of these tasks' groups [B, n, d]."""
        where = torch.zeros_like(task) if self.where is None else self.where[task]
        return self.bank.stack("prompt").index_select(0, where)

    def exported(self, task: int) -> Mapping[str, Tensor]:
        """The prompt under peft's name."""
        where = torch.tensor([task], device=self.bank.stack("prompt").device)
        return {"prompt_embeddings": self.prompts(where)[0]}
