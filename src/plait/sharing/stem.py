r"""Encoders (embeddings) of each task and a shared one, whose experts every task reads.

With x_t = encoder_t(inputs) and x_s = encoder_s(inputs) [B, d], experts e of each task and shared
ones, each reading its own x, Y_e = expert_e(x_{t or s}) [B, width], the features of task t are

    f_t = Σ_{all e} g_t(x_t + x_s)_e · Y'_e,     Y'_e = Y_e for e of t or shared, else sg(Y_e)

where sg() passes no gradient on: a task reads the experts of all tasks, and trains its own and the
shared ones only. g_t is softmax(W_t v + b_t) of v, or of ``gate_depth`` layers v → gate_width with
ReLU. Each expert has ``depth`` layers with ReLU. Parameters, with N those of an encoder, E_t and
E_s the experts of a task and the shared ones, E all: (T+1)·N + E·((d+1)·width +
(depth−1)·(width+1)·width), and with gates of one hidden layer of h T·((d+1)·h + (h+1)·E).

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy")])
    >>> inputs = {"categorical": Input(key="categorical", type="categorical", shape=(1,),
    ...                                sizes=(9,))}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks,
    ...     encoder={"categorical": {"embedding": {"width": 3}}, "trunk": {"mlp": {"depth": 0}}},
    ...     sharing=Stem(experts=1, shared=2, width=5, gate_width=4), seed=0,
    ... )
    >>> tables, experts, gates = 3 * 9 * 3, 4 * 4 * 5, 2 * (4 * 4 + 5 * 4)
    >>> sum(p.numel() for p in network.trunk.parameters()) == tables + experts + gates
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plait.batch import Parts, Records
from plait.method import Card, Law, Paper
from plait.networks.base import Encoder, Features, MakeEncoder, Sharing, Trunk
from plait.networks.side_by_side import SideBySideTrunk
from plait.sharing.base import Experts, Gates, at_least, by_task, mix, own_rows, present
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Stem(Sharing):
    """Shared and task-specific embeddings; ``experts`` of each task, or of those named."""

    experts: int | Mapping[str, int] = 1
    shared: int = 2
    width: int = 64
    depth: int = 1
    gate_width: int = 64
    gate_depth: int = 1

    card = Card(
        family="sharing",
        name="stem",
        summary="An encoder for each task beside one for all; every task reads all their experts.",
        paper=Paper(
            title="STEM: Unleashing the Power of Embeddings for Multi-task Recommendation",
            authors="Liangcai Su and Junwei Pan and Ximei Wang and Xi Xiao and Shijie Quan and "
            "Xihua Chen and Jie Jiang",
            year=2024,
            venue="AAAI",
            url="https://doi.org/10.1609/aaai.v38i8.28749",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "whole encoders are a task's own; an encoder of depth 0 gives the paper's tables",
            "one level, as in the authors' settings; no tower between the mixture and the head",
        ),
        exceptions={
            "more_tasks_change_no_output": "every task reads the experts of all tasks",
            "absent_task_cannot_harm": "the experts of absent tasks are read by the others",
        },
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"experts": "keys"}

    def __post_init__(self) -> None:
        at_least(self, experts=0, shared=0, width=1, depth=1, gate_width=1, gate_depth=0)

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """An encoder for each task and a shared one, with experts and gates on them.

        Raises ``ValueError`` for transformers and modules of the user's, which cannot be stacked.
        """
        counts = by_task("experts", self.experts, tasks)
        if not self.shared and not any(counts):
            raise ValueError("there is no expert: set experts or shared to 1 or more")
        own = SideBySideTrunk([encoder(name) for name in tasks.names], tasks)
        return _Stem(encoder(), own, tasks, self, counts)


class _Stem(Trunk):
    mine: Tensor

    def __init__(
        self, common: Encoder, own: SideBySideTrunk, tasks: TaskSet, settings: Stem,
        counts: list[int],
    ) -> None:  # fmt: skip
        super().__init__(tasks, settings.width)
        self.common_encoder, self.own_encoders = common, own
        inside, size = common.width, (common.width, settings.width, settings.depth)
        units = [t for t, count in enumerate(counts) for _ in range(count)]
        owners = [tasks.names[t] for t in units]
        self.own = Experts(owners, *size, units=units, specific=True) if units else None
        self.common = Experts(settings.shared, *size) if settings.shared else None
        self.hidden = None
        if settings.gate_depth:
            hidden = (settings.gate_width, settings.gate_depth)
            self.hidden = Experts(tasks.names, inside, *hidden, specific=True)
            inside = settings.gate_width
        about = [*owners, *[None] * settings.shared]
        self.gates = Gates(tasks.names, [range(len(about))] * len(tasks), about, inside)
        mine = [[owner in (name, None) for owner in about] for name in tasks.names]
        self.register_buffer("mine", torch.tensor(mine), persistent=False)

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        task = {group: self.positions(group, records) for group, records in asked.items()}
        kept = present(list(task.values()), len(self.tasks))
        common, own = self.common_encoder(parts), self.own_encoders.every(parts)
        given = [] if self.own is None else [self.own(own)]
        outputs = torch.cat([*given, *([] if self.common is None else [self.common(common)])], 1)
        if kept is not None:
            own = own.index_select(0, torch.tensor(kept, device=own.device))
        v = own + common
        if self.hidden is not None:
            v = self.hidden(v, kept).transpose(0, 1)
        found = {}
        for group, records in asked.items():
            gates = self.gates(own_rows(v, kept, records, task[group]), task[group])
            trained, rows = self.mine[task[group]], records.rows
            ours = mix(outputs, gates * trained, rows, task[group])
            theirs = mix(outputs.detach(), gates * ~trained, rows, task[group])
            found[group] = Features(ours + theirs)
        return found, {}
