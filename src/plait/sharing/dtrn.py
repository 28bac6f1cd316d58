r"""Representations at the bottom that are each task's own: interests, then the weights of fields.

What a row is for task t is encoded with t in mind, in two modules. Every norm inside the encoders
of sequences gets a scale and a shift from the vectors e_t [size] of the task and e_s [size] of the
sequence, by a map that starts at 0, so that all tasks start with one extractor:

    norm_ts(x) = (1 + γ) ⊙ norm(x) + β,    [γ; β] = H [e_t; e_s] + c        (a map H for each norm)

and a task's interest is the mean over the sequence's states. The fields of a row, z_f [k_f] for
f = 1…F (numbers, vectors of categories, interests), are then weighed for each task by what each is
on average, m_f = mean(z_f):

    z'_f = σ(B_t ReLU(A_t m))_f · z_f,      A_t [F/ρ, F], B_t [F, F/ρ], ρ = ``reduction``

and the encoder's trunk, the same for all tasks, goes on from [z'_1; …; z'_F]. Parameters beside the
encoder: T·2·F·⌈F/ρ⌉; with S sequences and N norms of width d, N·2·d·(2·size + 1) + (T + S)·size.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> seen = Input(key="sequence.seen", type="sequence", shape=(-1,), sizes=(9,))
    >>> inputs = {"numeric": Input(key="numeric", type="numeric", shape=(3,)), seen.key: seen}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, seed=0, sharing=Dtrn(size=3, reduction=2),
    ...     encoder={"sequence": {"attention": {"width": 4, "heads": 2}}},
    ... )
    >>> own = sum(p.numel() for p in network.trunk.parameters())
    >>> own -= sum(p.numel() for p in network.encoder.stems.parameters())
    >>> trunk = (3 + 4 + 1) * 256 + (256 + 1) * 256
    >>> norms = 2 * 2 * 4 * (2 * 3 + 1) + (2 + 1) * 3
    >>> own == trunk + 2 * 2 * 4 * 2 + norms
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.method import Card, Law, Paper
from plait.networks.base import Bank, MakeEncoder, Sharing, TaskBank, Trunk, uniform
from plait.networks.encoder import StemEncoder
from plait.networks.rows import RowTasks
from plait.networks.stems import Stem
from plait.sharing.base import at_least
from plait.sharing.inside import Inside
from plait.sites import ModuleSite, module_sites
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Dtrn(Sharing):
    """Deep task-specific bottom representations; ``size`` of the vectors of tasks and sequences."""

    size: int = 16
    reduction: int = 2

    card = Card(
        family="sharing",
        name="dtrn",
        summary="Sequences are read, and fields weighed, for each task from the bottom on.",
        paper=Paper(
            title="Deep Task-specific Bottom Representation Network for Multi-Task Recommendation",
            authors="Qi Liu and Zhilong Zhou and Gangwei Jiang and Tiezheng Ge and Defu Lian",
            year=2023,
            venue="CIKM",
            url="https://doi.org/10.1145/3583780.3614837",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "the formulas are rebuilt from the abstract: no code and no other source was at hand",
            "an interest is the mean over a sequence, not attention to a target item",
            "the trunk that all tasks share goes on, not any architecture of several tasks",
        ),
    )

    def __post_init__(self) -> None:
        at_least(self, size=1, reduction=1)

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, its norms of sequences and its fields by task.

        Raises ``ValueError`` for an encoder of the user's, which has no fields.
        """
        made = encoder()
        if not isinstance(made, StemEncoder):
            raise ValueError("an encoder of your own has no fields to weigh")
        return _Dtrn(made, tasks, self)


class _Dtrn(Inside):
    def __init__(self, encoder: StemEncoder, tasks: TaskSet, settings: Dtrn) -> None:
        super().__init__(encoder, tasks, RowTasks())
        stems = cast("Sequence[Stem]", list(encoder.stems.values()))
        fields = [width for stem in stems for width in stem.fields]
        layers = module_sites(encoder, "trunk.layers")[0]
        own = TaskBank(tasks.names)
        layers.replace(
            partial(_Fields, bank=own, fields=fields, by=settings.reduction, rows=self.rows)
        )
        self.interest = None
        norms = [s for s in module_sites(encoder, types=(nn.LayerNorm,)) if _of_sequence(s)]
        if norms:
            self.interest = _Interest(tasks, norms, settings)
            for number, site in enumerate(norms):
                site.replace(partial(_Norm, rows=self.rows, number=number))

    def begin(self, task: Tensor) -> list[Tensor] | None:
        """For each norm the scales and shifts of the tasks, [T, 2, d]."""
        return None if self.interest is None else self.interest(task)


def _of_sequence(site: ModuleSite) -> bool:
    return site.path.startswith("stems.sequence.layers.")


class _Interest(nn.Module):
    """The maps from vectors of tasks and sequences to what the norms are scaled and shifted by."""

    def __init__(self, tasks: TaskSet, norms: Sequence[ModuleSite], settings: Dtrn) -> None:
        super().__init__()
        # stems.sequence.layers.<the number of the sequence>.<its blocks …>
        self.sequence = [int(site.path.split(".")[3]) for site in norms]
        self.tasks, self.kinds = TaskBank(tasks.names), Bank([None] * (1 + max(self.sequence)))
        for bank in (self.tasks, self.kinds):
            bank.add("vector", settings.size, start=uniform(settings.size))
        self.maps = nn.ModuleList()
        for site in norms:
            (width,) = site.tensors["weight"].shape
            bank = Bank([None])
            bank.add("weight", 2 * width, 2 * settings.size)
            bank.add("bias", 2 * width)
            self.maps.append(bank)

    def forward(self, task: Tensor) -> list[Tensor]:
        """For records of these tasks [N]: what absent ones get means nothing."""
        vectors, kinds = self.tasks.stack("vector"), self.kinds.stack("vector")
        there = torch.zeros(len(vectors), 1, dtype=torch.bool, device=task.device)
        vectors = vectors.where(there.index_fill(0, task, value=True), 0.0)
        found = []
        for number, bank in zip(self.sequence, self.maps, strict=True):
            assert isinstance(bank, Bank)
            both = torch.cat([vectors, kinds[number].expand(len(vectors), -1)], 1)
            made = F.linear(both, bank.stack("weight")[0], bank.stack("bias")[0])
            found.append(made.view(len(vectors), 2, -1))
        return found


class _Norm(nn.Module):
    """A norm whose scale and shift follow the task of each row."""

    def __init__(self, norm: nn.Module, rows: RowTasks, number: int) -> None:
        super().__init__()
        self.norm, self.rows, self.number = norm, rows, number

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, d] → [N, L, d]."""
        scale, shift = self.rows.made[self.number][self.rows.task].unsqueeze(2).unbind(1)
        found: Tensor = (1 + scale) * self.norm(x) + shift
        return found


class _Fields(nn.Module):
    """The trunk's layers, on fields weighed for the task of each row."""

    place: Tensor
    share: Tensor

    def __init__(
        self, layers: nn.Module, bank: TaskBank, fields: Sequence[int], by: int, rows: RowTasks
    ) -> None:
        super().__init__()
        self.layers, self.bank, self.rows = layers, bank, rows
        count, hidden = len(fields), -(-len(fields) // by)
        bank.add("squeeze", hidden, count, start=uniform(count))
        bank.add("excite", count, hidden, start=uniform(hidden))
        place = torch.arange(count).repeat_interleave(torch.tensor(fields))
        share = F.one_hot(place, count) / torch.tensor(fields)
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("share", share, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, d], or [N, P, d] with positions."""
        squeeze, excite = (
            self.bank.stack(name).index_select(0, self.rows.task).transpose(1, 2)
            for name in ("squeeze", "excite")
        )
        mean = torch.matmul(x, self.share.to(x))
        mean = mean.unsqueeze(1) if x.ndim == 2 else mean
        weight = torch.bmm(torch.bmm(mean, squeeze).relu(), excite).sigmoid()
        found: Tensor = self.layers(x * weight[..., self.place].view(x.shape))
        return found
