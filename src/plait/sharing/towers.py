"""A tower for each task on one input, and tasks that come after one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn

from plait.sharing.base import Experts, Kept
from plait.task import TaskSet


class Towers(nn.Module):
    """A network for each task: [B, d] → [U, B, width] for all tasks or those kept.

    ``trainers`` are the tasks that train each tower; those that only their own task trains are
    left alone where it is absent.
    """

    def __init__(
        self,
        tasks: TaskSet,
        inside: int,
        width: int,
        depth: int,
        trainers: Mapping[str, frozenset[str]],
    ) -> None:
        super().__init__()
        own = [t for t, name in enumerate(tasks.names) if trainers[name] == {name}]
        common = [t for t in range(len(tasks)) if t not in own]
        self.stacks = nn.ModuleList()
        for units, specific in ((common, False), (own, True)):
            if units:
                names = [tasks.names[t] for t in units]
                who = None if specific else [trainers[name] for name in names]
                self.stacks.append(
                    Experts(
                        names, inside, width, depth, units=units, specific=specific, trainers=who
                    )
                )

    def forward(self, x: Tensor, kept: Kept = None) -> Tensor:
        """[U, B, width], tasks ascending."""
        found: list[Tensor] = []
        units: list[int] = []
        for stack in cast("Sequence[Experts]", self.stacks):
            mine = [t for t in stack.units if kept is None or t in kept]
            if mine:
                found.append(stack(x, kept if kept is None else mine))
                units += mine
        states = found[0] if len(found) == 1 else torch.cat(found, 1)
        if units != sorted(units):
            order = sorted(range(len(units)), key=units.__getitem__)
            states = states.index_select(1, torch.tensor(order, device=x.device))
        return states.transpose(0, 1)


def links_of(tasks: TaskSet, order: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Task → those before it, the first one first: by ``order``, or else by the tasks' ``after``.

    Raises ``ValueError`` where of several tasks none comes after another.
    """
    order = [tasks[name].name for name in order]
    found = {name: tuple(order[: order.index(name)]) for name in order}
    before = {name: found.get(name, ()) if order else tasks.before(name) for name in tasks.names}
    if len(tasks) > 1 and not any(chain(*before.values())):
        names = tasks.names
        raise ValueError(
            f"no task comes after another; say which: {{{names[1]}: {{after: {names[0]}}}}}"
        )
    return before
