r"""Experts at several layers of an encoder, gathered by each task into a memory of its own.

X_1 … X_{L−1} are the outputs of blocks inside the encoder and X_L what it gives, [B, P, C_l] with P
places of an image (1 for what is no image). With K experts and, after the first layer, the memory
M_t^{l−1} as one more, for task t:

    g = softmax(W_t^l [mean(X_l); mean(M_t^{l−1})] + b_t^l)      [B, K + 1], means over places
    F_t^l = Σ_k g_k · expert_k^l(X_l) + g_{K+1} · M_t^{l−1}       [B, P, width]
    M_t^l = M_t^{l−1} + ReLU(U_t^l F_t^l + c_t^l)

where the first layer has no memory: K gates on X_1 alone, and M_t^1 = ReLU(U_t F_t + c_t). Experts
are linear with ReLU at every place. The features of task t are M_t^L, of each place for tasks that
label pixels; for others X_L is a vector a row, and meets the mean of the memory over places. Tasks
share the encoder and the experts. Parameters beside the encoder: Σ_l K·(C_l + 1)·width +
T·(width + 1)·width, and for the gates T·((C_1 + 1)·K + Σ_{l>1} (C_l + width + 1)·(K + 1)).

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"width": 4, "depth": 2}}},
    ...     sharing=TaskExpert(experts=3, width=5), seed=0,
    ... )
    >>> encoder, experts, updates = 4 * 4 + 5 * 4, 2 * 3 * 5 * 5, 2 * 2 * 6 * 5
    >>> gates = 2 * (5 * 3 + (4 + 5 + 1) * 4)
    >>> sum(p.numel() for p in network.trunk.parameters()) == encoder + experts + updates + gates
    True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from plait.batch import Parts, Records
from plait.method import Card, Law, Paper
from plait.networks.attention import Block
from plait.networks.base import Encoder, Features, MakeEncoder, Sharing, TaskBank, Trunk, uniform
from plait.networks.positions import place, remembered
from plait.sharing.base import Experts, Gates, Kept, at_least, own_rows, present
from plait.sites import ModuleSite, module_sites
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class TaskExpert(Sharing):
    """Memorial mixture of experts; ``sites``: blocks inside the encoder, by glob patterns."""

    experts: int = 5
    width: int = 64
    sites: Sequence[str] = ()

    card = Card(
        family="sharing",
        name="task_expert",
        summary="Experts at several layers, gathered by each task into a memory of its own.",
        paper=Paper(
            title="TaskExpert: Dynamically Assembling Multi-Task Representations with Memorial "
            "Mixture-of-Experts",
            authors="Hanrong Ye and Dan Xu",
            year=2023,
            venue="ICCV",
            url="https://arxiv.org/abs/2307.15324",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "gates and updates of the memory are rebuilt from the abstract: no code is public",
            "the first layer has no memory to read; places are not mixed in an update",
        ),
    )

    def __post_init__(self) -> None:
        at_least(self, experts=1, width=1)

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, with experts, gates and memories at its blocks and its end.

        Raises ``ValueError`` for blocks that read sequences or texts, whose padding has no place.
        """
        if any(task.place == "token" for task in tasks):
            raise ValueError("tasks that label tokens: the mean over places would be of padding")
        made = encoder()
        return _TaskExpert(made, tasks, self, _inner(made, self.sites))


def _inner(encoder: Encoder, named: Sequence[str]) -> list[ModuleSite]:
    """The blocks named, or else those of images or of the trunk but the last."""
    if not named:
        blocks = _beneath("stems.image.", module_sites(encoder, types=(Block,)))
        return (blocks or _beneath("trunk.", module_sites(encoder, types=(nn.Linear,))))[:-1]
    found = module_sites(encoder, list(named))
    for site in found:
        if not _beneath("stems.image.", [site]) and not _beneath("trunk.", [site]):
            raise ValueError(f"{site.path} is no block of the trunk or of images; name others")
    return found


def _beneath(path: str, sites: Sequence[ModuleSite]) -> list[ModuleSite]:
    return [site for site in sites if site.path.startswith(path)]


class _TaskExpert(Trunk):
    def __init__(
        self, encoder: Encoder, tasks: TaskSet, settings: TaskExpert, sites: Sequence[ModuleSite]
    ) -> None:
        super().__init__(tasks, settings.width)
        self.encoder = encoder
        self.widths = [_width(site.module) for site in sites]
        self.layers = nn.ModuleList(
            _Layer(tasks, settings, inside, first=not number)
            for number, inside in enumerate([*self.widths, encoder.width])
        )
        self.noted: list[list[Tensor]] = [[] for _ in sites]
        for noted, site in zip(self.noted, sites, strict=True):
            site.module.register_forward_hook(partial(_note, noted))

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        task = {group: self.positions(group, records) for group, records in asked.items()}
        kept = present(list(task.values()), len(self.tasks))
        *inner, last = cast("Sequence[_Layer]", self.layers)
        for noted in self.noted:  # by whoever ran the encoder before
            noted.clear()
        end, memory = self.encoder(parts), None
        for layer, x in zip(inner, self._blocks(parts), strict=True):
            memory = layer(x, memory, kept)
        if memory is not None and place() == "row":
            memory = memory.mean(2, keepdim=True)
        rows = sum(next(iter(part.values())).shape[0] for part in parts.values())
        state = last(end.view(rows, -1, end.shape[1]), memory, kept).flatten(1, 2)
        return {g: own_rows(state, kept, asked[g], task[g]) for g in asked}, {}

    def _blocks(self, parts: Parts) -> Sequence[Tensor]:
        """What the blocks have given, [B, P, C_l]."""
        if not self.noted:
            return ()
        some = next(iter(next(iter(parts.values())).values()))
        fresh = [torch.cat(noted) for noted in self.noted if noted]
        # Blocks that ran for rows do not run again for their places.
        every = remembered(self, some, lambda _: torch.cat(fresh, -1))
        every = torch.cat(fresh, -1) if fresh else every
        every = every.unsqueeze(1) if every.ndim == 2 else every
        return torch.split(every, self.widths, -1)


def _note(noted: list[Tensor], block: nn.Module, given: Any, output: Tensor) -> None:  # noqa: ARG001
    noted.append(output)


def _width(block: nn.Module) -> int:
    """The channels that a block gives: those of its last matrix."""
    widths = [m.out_features for m in block.modules() if isinstance(m, nn.Linear)]
    if not widths:
        raise ValueError(f"{type(block).__name__} has no linear layer to tell its width")
    return widths[-1]


class _Layer(nn.Module):
    """Experts on a block's output, and for each task a gate and an update of its memory."""

    def __init__(self, tasks: TaskSet, settings: TaskExpert, inside: int, *, first: bool) -> None:
        super().__init__()
        width = settings.width
        self.experts = Experts(settings.experts, inside, width)
        about = [None] * settings.experts + ([] if first else ["memory"])
        reads = [range(len(about))] * len(tasks)
        self.gates = Gates(tasks.names, reads, about, inside + (0 if first else width))
        self.update = TaskBank(tasks.names)
        self.update.add("weight", width, width, start=uniform(width))
        self.update.add("bias", width, start=uniform(width))

    def forward(self, x: Tensor, memory: Tensor | None, kept: Kept) -> Tensor:
        """[B, P, C] and memories [U, B, P, width] → memories."""
        rows, places, _ = x.shape
        outputs = self.experts(x.flatten(0, 1)).view(rows, places, len(self.experts.units), -1)
        known = x.mean(1)
        if memory is not None:
            told = memory.mean(2)
            known = torch.cat([known.expand(len(told), -1, -1), told], 2)
        gates = self.gates(Features(known), kept=kept)  # [B, U, K (+ 1)]
        mixed = torch.einsum("buk,bpkw->ubpw", gates[..., : outputs.shape[2]], outputs)
        if memory is not None:
            mixed = mixed + gates[..., -1].T[..., None, None] * memory
        weight, bias = self.update.stack("weight"), self.update.stack("bias")
        if kept is not None:
            some = torch.tensor(kept, device=x.device)
            weight, bias = weight.index_select(0, some), bias.index_select(0, some)
        added = torch.baddbmm(bias.unsqueeze(1), mixed.flatten(1, 2), weight.transpose(1, 2))
        added = added.relu().view(mixed.shape)
        return added if memory is None else memory + added
