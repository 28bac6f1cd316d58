"""Towers of all tasks in parallel that exchange what they have after each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from plait.batch import Parts, Records
from plait.networks.base import Encoder, Features, Trunk
from plait.sharing.base import Experts, own_rows
from plait.task import TaskSet


class Parallel(Trunk):
    """An encoder, then a tower for each task with an exchange after each of its layers.

    ``exchanges`` map the towers' states [B, T, width] to what their next layers read, which is of
    the same shape; every task trains every tower.
    """

    def __init__(
        self, encoder: Encoder, tasks: TaskSet, width: int, exchanges: Sequence[nn.Module]
    ) -> None:
        super().__init__(tasks, width)
        self.encoder = encoder
        inside = [encoder.width, *[width] * (len(exchanges) - 1)]
        units = range(len(tasks))
        self.layers = nn.ModuleList(Experts(tasks.names, d, width, units=units) for d in inside)
        self.exchanges = nn.ModuleList(exchanges)

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        state = self.states(parts)[-1]
        return {group: self.of(state, group, records) for group, records in asked.items()}, {}

    def states(self, parts: Parts) -> list[Tensor]:
        """What the towers have after each layer's exchange, each [T, B, width]."""
        state, found = self.encoder(parts), []
        for layer, exchange in zip(self.layers, self.exchanges, strict=True):
            state = exchange(layer(state)).transpose(0, 1)
            found.append(state)
        return found

    def of(self, state: Tensor, group: str, records: Records) -> Features:
        """What records read of their tasks' states [T, B, width]."""
        return own_rows(state, None, records, self.positions(group, records))


def imbalanced(tasks: int, own: float) -> Tensor:
    """[T, T]: ``own`` on the diagonal, the rest of 1 shared among the others; 1 for one task."""
    if tasks == 1:
        return torch.ones(1, 1)
    return torch.full((tasks, tasks), (1 - own) / (tasks - 1)).fill_diagonal_(own)
