"""Architectures that live inside an encoder: what stands at its sites treats tasks differently.

A method chooses sites (:func:`sites_in`), puts modules of its own there, and gives the encoder to
:class:`Inside`. Every record is then a row of its own, and a module at a site reads the task of
each row that it gets, and what was worked out once for the forward, from its trunk's ``rows``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from plait.batch import Parts, Records
from plait.networks.base import Encoder, Features, Trunk
from plait.networks.rows import RowTasks, row_each
from plait.networks.stems import Stem
from plait.sites import ModuleSite, module_sites
from plait.task import TaskSet


class Inside(Trunk):
    """An encoder with modules inside that know the task of each row.

    What ``begin(task)`` works out, once before each forward, modules read as ``rows.made``.
    """

    def __init__(self, encoder: Encoder, tasks: TaskSet, rows: RowTasks) -> None:
        super().__init__(tasks, encoder.width)
        self.encoder, self.rows = encoder, rows
        for module in encoder.modules():
            if isinstance(module, Encoder | Stem):
                module.among = rows.among

    def begin(self, task: Tensor) -> Any:
        """What modules share in a forward of records of tasks [N]."""

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        task = torch.cat([self.positions(group, records) for group, records in asked.items()])
        rows = torch.cat([records.rows for records in asked.values()])
        if task.shape[0] == 0:
            return {group: Features(self._nothing()) for group in asked}, {}
        found, order = row_each(parts, rows)
        with self.rows.to(task[order], self.begin(task)):
            h = self.encoder(found)
        place = torch.empty_like(order)
        place[order] = torch.arange(order.shape[0], device=order.device)
        pieces = torch.split(place, [records.task.shape[0] for records in asked.values()])
        features = {g: Features(h, piece) for g, piece in zip(asked, pieces, strict=True)}
        return features, {}

    def _nothing(self) -> Tensor:
        like = next(self.encoder.parameters())
        return like.new_zeros(0, self.width)


def sites_in(encoder: nn.Module, named: Sequence[str]) -> list[ModuleSite]:
    """The sites that glob patterns name, or else the blocks of the encoder.

    Blocks are the items of its longest list of modules, in an encoder without such a list its
    linear layers. Raises ``ValueError`` with the nearest paths for a pattern that matches nothing,
    and where there is no block.
    """
    if named:
        return module_sites(encoder, named)
    lists = {path: m for path, m in encoder.named_modules() if type(m) is nn.ModuleList and len(m)}
    if lists:
        path = max(lists, key=lambda path: len(lists[path]))
        return module_sites(encoder, [f"{path}.{number}" for number in range(len(lists[path]))])
    found = module_sites(encoder, types=(nn.Linear,))
    if not found:
        raise ValueError("the encoder has no block for experts to stand in; name sites")
    return found


def each_through_one(
    modules: nn.ModuleList, route: Tensor, inputs: tuple[Any, ...], named: Mapping[str, Any]
) -> Any:
    """Each row through the one module that its ``route`` [rows] names; no other module runs.

    What goes in with one entry for each row is split, everything else given to each module.
    """
    taken = torch.unique(route).tolist()
    if len(taken) == 1:
        return modules[taken[0]](*inputs, **named)
    places = [torch.nonzero(route == number).flatten() for number in taken]

    def some(value: Any, place: Tensor) -> Any:
        rows = isinstance(value, Tensor) and value.ndim and value.shape[0] == len(route)
        return value.index_select(0, place) if rows else value

    found = []
    for number, place in zip(taken, places, strict=True):
        own, more = tree_map(partial(some, place=place), (inputs, dict(named)))
        found.append(modules[number](*own, **more))
    back = torch.argsort(torch.cat(places))

    def joined(*pieces: Any) -> Any:
        return torch.cat(pieces)[back] if isinstance(pieces[0], Tensor) else pieces[0]

    return tree_map(joined, *found)
