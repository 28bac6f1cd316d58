r"""Shared experts mixed for each task by a gate, some of them closed to tasks by a fixed draw.

Features of a record (task t, row b), with x = encoder(inputs) [B, d]; e runs over the experts that
are open to t:

    f_t(x_b) = Σ_e softmax(W_t x_b + c_t)_e · expert_e(x_b)

For the first ⌊E · closed⌋ of E experts one task each is drawn. With ``by`` exclusivity only that
task may read the expert, with exclusion all others may. A closed gate is exactly 0. The draw is
keyed by ``draw``, the expert and the tasks' names. Experts have ``depth`` layers with ReLU.
Parameters beside the encoder, with R the pairs of a task and an expert open to it:
E·((d+1)·width + (depth−1)·(width+1)·width) + R·(d+1). How diverse the experts are
:func:`diversity` tells: D_ef = ‖Y_e − Y_f‖ over all rows, as shares of the greatest.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"depth": 0}}},
    ...     sharing=Mmoeex(experts=4, closed=0.5, width=5), seed=0,
    ... )
    >>> sum(p.numel() for p in network.trunk.parameters()) == 4 * 4 * 5 + (2 * 2 + 2) * 4
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from plait.batch import Parts, Records
from plait.data.seeding import key
from plait.method import Card, Law, Paper
from plait.networks.base import Encoder, Features, MakeEncoder, Sharing, Trunk
from plait.networks.network import Network, evaluating
from plait.sharing.base import Experts, Gates, at_least, mix
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Mmoeex(Sharing):
    """Multi-gate mixture of experts with exclusivity; ``closed``: the share of experts drawn."""

    experts: int = 12
    width: int = 64
    depth: int = 1
    closed: float = 0.75
    by: Literal["exclusivity", "exclusion"] = "exclusivity"
    draw: int = 0

    card = Card(
        family="sharing",
        name="mmoeex",
        summary="Shared experts, many of them open to one task only, mixed by gates of the tasks.",
        paper=Paper(
            title="Heterogeneous Multi-task Learning with Expert Diversity",
            authors="Raquel Aoki and Frederick Tung and Gabriel L. Oliveira",
            year=2021,
            venue="BIOKDD",
            url="https://arxiv.org/abs/2106.10595",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "a closed gate is 0, as in the paper; in the authors' code its logit is",
            "trained by the steps of the study, not by the paper's two steps for each task",
            "the experts read the encoder's output; an encoder of depth 0 is the paper's",
        ),
        exceptions={
            "more_tasks_change_no_output": "the experts that are closed are drawn among all tasks",
            "more_tasks_change_no_start": "another draw opens other experts to a task",
        },
    )

    def __post_init__(self) -> None:
        at_least(self, experts=1, width=1, depth=1, closed=0)
        if self.by not in ("exclusivity", "exclusion"):
            raise ValueError(f"by must be exclusivity or exclusion, got {self.by!r}")
        if int(self.experts * self.closed) >= self.experts:
            raise ValueError(f"closed must leave an expert open to all, got {self.closed}")

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, the experts on it, and a gate for each task over those open to it."""
        return _Mmoeex(encoder(), tasks, self)


class _Mmoeex(Trunk):
    def __init__(self, encoder: Encoder, tasks: TaskSet, settings: Mmoeex) -> None:
        super().__init__(tasks, settings.width)
        self.encoder = encoder
        readers = readers_of(tasks, settings)
        alone = settings.by == "exclusivity"
        owners = [next(iter(some)) if alone and len(some) == 1 else None for some in readers]
        if len(tasks) == 1:
            owners = [None] * len(owners)
        size = (encoder.width, settings.width, settings.depth)
        self.experts = Experts(owners, *size, trainers=readers)
        reads = [[e for e, some in enumerate(readers) if name in some] for name in tasks.names]
        self.gate = Gates(tasks.names, reads, owners, encoder.width)

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        x = self.encoder(parts)
        outputs = self.experts(x)
        found = {}
        for group, records in asked.items():
            task = self.positions(group, records)
            gates = self.gate(Features(x, records.rows), task)
            found[group] = Features(mix(outputs, gates, records.rows, task))
        return found, {}


def readers_of(tasks: TaskSet, settings: Mmoeex) -> list[frozenset[str]]:
    """The tasks that may read each expert."""
    everyone = frozenset(tasks.names)
    found = []
    for expert in range(int(settings.experts * settings.closed)):
        drawn = min(tasks.names, key=lambda name: key("mmoeex", settings.draw, expert, name))
        others = everyone - {drawn} or everyone
        found.append(frozenset({drawn}) if settings.by == "exclusivity" else others)
    return found + [everyone] * (settings.experts - len(found))


@torch.no_grad()
def diversity(network: Network, parts: Parts) -> Tensor:
    """How far apart the experts of the network are on these rows, [E, E] in 0…1.

    Raises ``ValueError`` for a network of another architecture.
    """
    trunk = network.trunk
    if not isinstance(trunk, _Mmoeex):
        raise ValueError("the network has no experts with exclusivity; build it with mmoeex")
    with evaluating(network):
        outputs = trunk.experts(trunk.encoder(parts)).transpose(0, 1).flatten(1)
    found = torch.cdist(outputs, outputs, compute_mode="donot_use_mm_for_euclid_dist")
    return found / found.max().clamp(min=torch.finfo(found.dtype).tiny)
