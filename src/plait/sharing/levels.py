"""Levels of experts: every unit has experts and a state of its own, and gates mix them.

A *unit* is a task, or what is shared. At a level each expert reads its unit's state, and each unit
reads some of the experts' outputs, mixed by its gate, as its next state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from plait.batch import Parts, Records
from plait.networks.base import Bank, Features, MakeEncoder, TaskBank, Trunk, uniform
from plait.sharing.base import Experts, Gates, Kept, mix, own_rows, present
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Form:
    """How levels are made: ``counts`` [T] of the tasks' experts, ``shared`` of the shared unit.

    ``reads``: a task's gate reads its ``own`` and the shared experts, or ``all``; the shared unit's
    reads all. ``residual``: weights of a unit's own experts are added to its gate's.
    """

    counts: Sequence[int]
    shared: int
    width: int
    depth: int
    levels: int = 1
    reads: Literal["own", "all"] = "own"
    residual: bool = False

    def check(self, tasks: TaskSet) -> None:
        """Raise ``ValueError`` for a task that has no expert to read."""
        for task, count in zip(tasks.names, self.counts, strict=True):
            if not count and not self.shared:
                raise ValueError(
                    f"task {task!r} has no expert, neither its own nor a shared one: set experts "
                    "or shared to 1 or more"
                )


class Levels(Trunk):
    """An encoder, then levels. Of the last one only what is asked for is mixed."""

    def __init__(self, encoder: MakeEncoder, tasks: TaskSet, form: Form) -> None:
        super().__init__(tasks, form.width)
        form.check(tasks)
        self.encoder = encoder()
        inside = [self.encoder.width, *[form.width] * (form.levels - 1)]
        self.levels = nn.ModuleList(
            Level(tasks, form, number, inside[number]) for number in range(form.levels)
        )

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        task = {group: self.positions(group, records) for group, records in asked.items()}
        kept = present(list(task.values()), len(self.tasks))
        state, there = self.encoder(parts), None
        *inner, last = cast("Sequence[Level]", self.levels)
        for level in inner:
            state, there = level(state, there, kept)
        outputs, columns = last.outputs(state, kept)
        found = {}
        for group, records in asked.items():
            own = own_rows(state, there, records, task[group])
            weights = last.weights(own, task[group], columns)
            found[group] = Features(mix(outputs, weights, records.rows, task[group]))
        return found, {}


class Level(nn.Module):
    """The experts and gates of one level.

    What feeds nothing but what one task alone reads is the task's own, and is left out where the
    task is absent.
    """

    def __init__(self, tasks: TaskSet, form: Form, number: int, inside: int) -> None:
        super().__init__()
        last = number == form.levels - 1
        alone = form.reads == "own" and not form.shared  # nothing is ever shared
        self.own_experts = alone or (last and form.reads == "own")
        self.own_gates = alone or last or (number == form.levels - 2 and form.reads == "own")
        units = [t for t, count in enumerate(form.counts) for _ in range(count)]
        owners = [tasks.names[t] for t in units]
        size = (inside, form.width, form.depth)
        self.own = self.common = self.shared_gate = self.residual = None
        if units:
            self.own = Experts(owners, *size, units=units, specific=self.own_experts)
        if form.shared:
            self.common = Experts(form.shared, *size)
        about = [*owners, *[None] * form.shared]
        every, common = range(len(about)), range(len(units), len(about))
        mine = [[e for e, unit in enumerate(units) if unit == t] for t in range(len(tasks))]
        reads = [every if form.reads == "all" else [*own, *common] for own in mine]
        self.gates = Gates(tasks.names, reads, about, inside, specific=self.own_gates)
        if form.shared and not last:
            self.shared_gate = Gates([None], [every], about, inside, specific=False)
        if form.residual:
            self.residual = Residual(tasks, form, last=last)

    def forward(self, state: Tensor, there: Kept, kept: Kept) -> tuple[Tensor, Kept]:
        """The state of every unit, the shared one's last, [U, B, width], and whose they are.

        ``state`` is [B, d], or [U, B, d] of all units or of those ``there``; of the tasks' states
        only those ``kept`` are made where no other task is in need of them.
        """
        outputs, columns = self.outputs(state, there)
        there = kept if self.own_gates else None
        own, common = self._apart(state)
        gates = [self.gates(Features(own), kept=there)]
        if self.shared_gate is not None:
            gates.append(self.shared_gate(Features(common)))
        weights = torch.cat(gates, 1)
        if self.residual is not None:
            weights = weights + self.residual(weights)
        if columns is not None:
            weights = weights.index_select(2, columns)
        return torch.bmm(weights, outputs).transpose(0, 1), there

    def weights(self, own: Features, task: Tensor, columns: Tensor | None) -> Tensor:
        """The weights [N, E] with which records, of tasks [N], read the experts (these of them)."""
        weights: Tensor = self.gates(own, task)
        if self.residual is not None:
            weights = weights + self.residual(weights)[task]
        return weights if columns is None else weights.index_select(1, columns)

    def outputs(self, state: Tensor, kept: Kept) -> tuple[Tensor, Tensor | None]:
        """The experts' outputs [B, E, width], and which they are where some are left out."""
        own, common = self._apart(state)
        kept = kept if self.own_experts else None
        found, columns = [], None
        if self.own is not None and kept is not None:
            mine = self.own.columns(kept)
            rest = range(len(self.own.units), self.gates.experts)
            columns = torch.tensor([*mine, *rest], device=state.device)
            found += [self.own(own, kept)] if mine else []
        elif self.own is not None:
            found.append(self.own(own))
        if self.common is not None:
            found.append(self.common(common))
        return found[0] if len(found) == 1 else torch.cat(found, 1), columns

    def _apart(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """What the tasks' own and what the shared experts read."""
        if state.ndim == 2 or self.common is None:
            return state, state
        return state[:-1], state[-1]


class Residual(nn.Module):
    """Weights of the units' own experts beside the gates', the same for every row: [R, E].

    They start from U(±1/√m) with m experts; where every unit has one expert they are 1, not learnt.
    """

    flat: Tensor

    def __init__(self, tasks: TaskSet, form: Form, *, last: bool) -> None:
        super().__init__()
        mine = [t for t, count in enumerate(form.counts) for _ in range(count)]
        common = 0 if last else form.shared
        readers, experts = len(tasks) + (common > 0), len(mine) + form.shared
        places = [t * experts + e for e, t in enumerate(mine)]
        places += [len(tasks) * experts + len(mine) + e for e in range(common)]
        self.shape = (readers, experts)
        self.register_buffer("flat", torch.tensor(places), persistent=False)
        self.learnt = any(m != 1 for m in (*form.counts, *[form.shared] * (form.shared > 0)))
        if self.learnt:
            owners = [tasks.names[t] for t in mine]
            self.own = TaskBank(owners) if last else Bank(owners)
            self.own.add("weight", start=[uniform(form.counts[t]) for t in mine])
            self.common = Bank([None] * common) if common else None
            if self.common is not None:
                self.common.add("weight", start=uniform(form.shared))

    def forward(self, like: Tensor) -> Tensor:
        """[R, E], in the precision of ``like``."""
        room = like.new_zeros(self.shape[0] * self.shape[1])
        if self.learnt:
            banks = [self.own] if self.common is None else [self.own, self.common]
            weights = torch.cat([bank.stack("weight") for bank in banks])
        else:
            weights = like.new_ones(len(self.flat))
        return room.index_copy(0, self.flat, weights.to(like)).view(self.shape)
