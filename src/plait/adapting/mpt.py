r"""One prompt for all tasks, which each scales by a product of its own, taught by single prompts.

    P_t = P* ⊙ (u_t v_t)
    loss = Σ_t (L_t + λ (KL(teacher_t ‖ student_t) + mean (h − h_teacher)²))

P* [n, d] is shared and starts from the embeddings of drawn tokens; u [T, n, rank] and v
[T, rank, d] start with a product of ones, so that every task begins with P*. The teachers are the
prompts of the first stage, each trained for its task alone, with the heads trained beside them; L_t
is the task's own loss and h [d] the features that heads read. The divergence is that of what both
predict: of distributions, or of numbers as the task's loss measures them. Teachers run in training
only. Parameters: n·d + T·rank·(n + d).

    >>> from plait.adapting.mpt import Mpt
    >>> Mpt(sources={"prompt": {"length": 5}}).trained_on.settings()["length"]
    5
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plait.adapting.banks import shared, trained_at
from plait.adapting.base import Adapted, Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.adapting.virtual import (
    PromptBank,
    drawn,
    prompt_config,
    with_prompt,
    words_of,
)
from plait.method import Card, Law, Method, Paper, resolve
from plait.networks.base import TaskBank
from plait.sites import ModuleSite
from plait.task import TaskSet

STD = 0.02  # of the start of what is beyond the first rank


@dataclass(frozen=True, kw_only=True)
class Mpt(Adapter):
    """MPT over the prompts ``sources``; ``imitation`` is λ, u and v learn at ``pace``."""

    sources: Method | str = "prompt"
    rank: int = 1
    imitation: float = 0.9
    pace: float = 4 / 3
    parts = {"sources": "adapting"}  # noqa: RUF012
    transformers_only = True

    card = Card(
        family="adapting",
        name="mpt",
        summary="One prompt that each task scales by a product, taught by single prompts.",
        paper=Paper(
            title="Multitask Prompt Tuning Enables Parameter-Efficient Transfer Learning",
            authors="Zhen Wang and Rameswar Panda and Leonid Karlinsky and Rogerio Feris and "
            "Huan Sun and Yoon Kim",
            year=2023,
            venue="ICLR",
            url="https://arxiv.org/abs/2303.02861",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "the states that are compared are those that heads read, pooled, not every token's",
            "batches mix tasks as training says; the published stage draws tasks at random",
            "the second stage of the paper, for tasks that come later, is not here",
        ),
        exceptions={
            "fresh_adapter_changes_nothing": "every task begins with the shared prompt",
        },
    )

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if self.imitation < 0 or self.pace <= 0:
            raise ValueError(
                f"imitation must not be negative and pace positive, got {self.imitation, self.pace}"
            )

    @property
    def trained_on(self) -> Adapter:
        """The teachers' prompts."""
        found: Adapter = resolve("adapting", self.sources)
        return found

    @property
    def taught(self) -> float:
        """λ."""
        return self.imitation

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Stand where the teachers' prompts stood; ``ValueError`` where they are no prompts."""

        def bank(site: ModuleSite) -> SiteBank:
            first = trained_at(site, PromptBank, "mpt")
            return _ScaledPrompt(tasks.names, first, words_of(site.module), self)

        return put(sites, routing, bank)

    def peft_config(self, banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:
        """Each task's product as prompt tuning."""
        return prompt_config(banks, task)


class _ScaledPrompt(SiteBank):
    """P* [1, n, d], u [T, n, rank] and v [T, rank, d] before one transformer."""

    def __init__(
        self, names: Sequence[str], first: PromptBank, table: Tensor, settings: Mpt
    ) -> None:
        super().__init__()
        _, length, width = first.stack("prompt").shape
        if settings.rank > min(length, width):
            raise ValueError(
                f"mpt: rank {settings.rank} is above the smaller side of the prompts, {length} "
                f"vectors of {width}"
            )
        self.common = shared(1, length, width, start=drawn(table))
        self.own = TaskBank(names)
        self.own.add("rows", length, settings.rank, start=_rows, pace=settings.pace)
        self.own.add("columns", settings.rank, width, start=_columns, pace=settings.pace)

    def prompts(self, task: Tensor) -> Tensor:
        """P of these tasks [B, n, d]."""
        rows, columns = (self.own.stack(n).index_select(0, task) for n in ("rows", "columns"))
        return self.common * (rows @ columns)

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Any:  # noqa: ARG002
        """The states of the texts, with their tasks' prompts before them."""
        assert isinstance(base, Adapted)
        return with_prompt(base.frozen, self.prompts(routing.task), None, **named)

    def exported(self, task: int) -> Mapping[str, Tensor]:
        """The product under peft's name."""
        where = torch.tensor([task], device=self.common.device)
        return {"prompt_embeddings": self.prompts(where)[0]}


def _rows(slice_: Tensor, generator: torch.Generator) -> None:
    """U [n, rank]: the first of ones, others near 0."""
    slice_.normal_(0.0, STD, generator=generator)[:, 0] = 1.0


def _columns(slice_: Tensor, generator: torch.Generator) -> None:  # noqa: ARG001
    """V [rank, d]: the first of ones, others 0."""
    slice_.zero_()[0] = 1.0
