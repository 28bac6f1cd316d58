r"""Every feed-forward part in one copy for each task, and every row sent to the copy of its task.

For the tokens x [L, d] of a row of task t, in each block,

    y = part_t(x)

Attention and norms stay shared; there is no gate and nothing to balance. In transformers of texts a
learnt vector of the task takes the place of the first token's, where [CLS] was (``token``). All
copies start as the part, so that before training every task sees the encoder as it was. Parameters:
each part T times, and T·d for each transformer.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="mood"), Task(name="topic")])
    >>> items = Input(key="sequence.s", type="sequence", shape=(-1,), sizes=(9,))
    >>> network = build_network(
    ...     inputs={"sequence.s": items}, tasks=tasks,
    ...     encoder={"sequence": {"attention": {"width": 8, "heads": 2}}},
    ...     sharing=EnforcedRouting(), seed=0,
    ... )
    >>> part = network.encoder.stems["sequence"].layers[0][0].mlp
    >>> sum(p.numel() for p in part.parameters()) == 2 * (9 * 32 + 33 * 8) + 2 * 8
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from plait.kinds import Place
from plait.method import Card, Law, Paper
from plait.networks.base import Encoder, MakeEncoder, Sharing, TaskBank, Trunk, normal
from plait.networks.rows import RowTasks
from plait.networks.transformer import Transformer
from plait.sharing.inside import Inside, through_maps
from plait.sharing.pathways import feed_forwards
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class EnforcedRouting(Sharing):
    """Enforced routing; ``sites`` names modules whose feed-forward parts are meant, else all."""

    token: bool = True
    sites: Sequence[str] = ()
    place: ClassVar[Place] = "token"

    card = Card(
        family="sharing",
        name="enforced_routing",
        summary="Feed-forward parts in one copy for each task, to which its rows are sent.",
        paper=Paper(
            title="Contrastive Learning and Mixture of Experts Enables Precise Vector Embeddings",
            authors="Logan Hallee and Rohan Kapur and Arjun Patel and Jason P. Gleghorn and "
            "Bohdan B. Khomtchouk",
            year=2024,
            venue="arXiv",
            url="https://arxiv.org/abs/2401.15713",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "tasks are the domains, and train by their own losses, not by a contrastive one",
            "sequences of items have no token of their own at the front, and keep their first item",
        ),
    )

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder with a copy of its feed-forward parts for each task."""
        made, rows = encoder(), RowTasks()
        for part in feed_forwards(made, self.sites):
            for site in (*part.inner, part.outer):
                site.replace(partial(_Own, tasks=tasks, rows=rows))
        if self.token:
            _mark(made, tasks, rows)
        return Inside(made, tasks, rows)


def _copy(slice_: Tensor, generator: torch.Generator, value: Tensor) -> None:  # noqa: ARG001
    slice_.copy_(value)


class _Own(nn.Module):
    def __init__(self, linear: nn.Module, tasks: TaskSet, rows: RowTasks) -> None:
        super().__init__()
        self.bank, self.rows = TaskBank(tasks.names), rows
        for name, value in linear.named_parameters():
            start = partial(_copy, value=value.detach().clone())
            self.bank.add(name, *value.shape, start=start)

    def forward(self, x: Tensor) -> Tensor:
        """[B, ..., i] → [B, ..., o]."""
        bias = self.bank.stack("bias") if "bias" in self.bank.starts else None
        return through_maps(x, self.rows.task, self.bank.stack("weight"), bias)


class _Marked(nn.Module):
    def __init__(self, embedding: nn.Module, tasks: TaskSet, rows: RowTasks, width: int) -> None:
        super().__init__()
        self.embedding, self.rows = embedding, rows
        self.bank = TaskBank(tasks.names)
        self.bank.add("token", width, start=normal(0.02))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, L] → [B, L, d], the first one the task's."""
        found: Tensor = self.embedding(tokens)
        first = self.bank.stack("token").index_select(0, self.rows.task).unsqueeze(1)
        return torch.cat([first, found[:, 1:]], 1)


def _mark(encoder: Encoder, tasks: TaskSet, rows: RowTasks) -> None:
    """Let the texts of every transformer that trains begin with the token of their task."""
    for stem in list(encoder.modules()):
        if isinstance(stem, Transformer) and not stem.frozen:
            embedding = stem.model.get_input_embeddings()
            width = int(stem.model.config.hidden_size)
            stem.model.set_input_embeddings(_Marked(embedding, tasks, rows, width))
