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
from torch.nn import functional as F  # noqa: N812
from torch.utils._pytree import tree_map

from plait.batch import Parts, Records
from plait.networks import positions
from plait.networks.base import Encoder, Features, Trunk
from plait.networks.routing import followed
from plait.networks.rows import RowTasks, row_each
from plait.networks.stems import Stem
from plait.networks.transformer import Transformer
from plait.sites import ModuleSite, module_sites
from plait.task import TaskSet


class Inside(Trunk):
    """An encoder with modules inside that know the task of each row.

    What ``begin(task)`` works out, once before each forward, modules read as ``rows.made``; what
    they left there :meth:`finish` makes penalties of. Where positions are asked for, a row runs
    once for each task that asks for any of its positions.
    """

    def __init__(self, encoder: Encoder, tasks: TaskSet, rows: RowTasks) -> None:
        super().__init__(tasks, encoder.width)
        self.encoder, self.rows = encoder, rows
        for module in encoder.modules():
            if isinstance(module, Encoder | Stem):
                module.among = rows.among

    def begin(self, task: Tensor) -> Any:
        """What modules share in a forward of records of tasks [N]."""

    def finish(self, made: Any) -> dict[str, Tensor]:  # noqa: ARG002
        """Penalties of what modules shared, by name."""
        return {}

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        task = torch.cat([self.positions(group, records) for group, records in asked.items()])
        rows = torch.cat([records.rows for records in asked.values()])
        if task.shape[0] == 0:
            return {group: Features(self._nothing()) for group in asked}, {}
        record = torch.arange(task.shape[0], device=task.device)
        inside = torch.zeros_like(record)
        if (where := positions.place()) != "row":
            each = self.encoder.grid(parts, where).flatten(1).shape[1]
            inside = rows % each
            pairs = (rows - inside) // each * len(self.tasks) + task
            pairs, record = torch.unique(pairs, return_inverse=True)
            rows, task = pairs // len(self.tasks), pairs % len(self.tasks)
        found, order = row_each(parts, rows)
        made = self.begin(task[order])
        with self.rows.to(task[order], made, rows[order]):
            h = self.encoder(found)
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0], device=order.device)
        values = back[record] * (h.shape[0] // order.shape[0]) + inside
        pieces = torch.split(values, [records.task.shape[0] for records in asked.values()])
        features = {g: Features(h, piece) for g, piece in zip(asked, pieces, strict=True)}
        return features, self.finish(made)

    def _nothing(self) -> Tensor:
        like = next(self.encoder.parameters())
        return like.new_zeros(0, self.width)


def sites_in(encoder: nn.Module, named: Sequence[str]) -> list[ModuleSite]:
    """The sites that glob patterns name, or else the blocks of the encoder.

    Blocks are the items of its longest list of modules, in an encoder without such a list its
    linear layers. Raises ``ValueError`` with the nearest paths for a pattern that matches nothing,
    where there is no block, and for one that is frozen.
    """
    found = _named_or_blocks(encoder, named)
    if not found:
        raise ValueError("the encoder has no block for experts to stand in; name sites")
    trained(encoder, found)
    return found


def _named_or_blocks(encoder: nn.Module, named: Sequence[str]) -> list[ModuleSite]:
    if named:
        return module_sites(encoder, named)
    lists = {path: m for path, m in encoder.named_modules() if type(m) is nn.ModuleList and len(m)}
    if lists:
        path = max(lists, key=lambda path: len(lists[path]))
        return module_sites(encoder, [f"{path}.{number}" for number in range(len(lists[path]))])
    return module_sites(encoder, types=(nn.Linear,))


def trained(encoder: nn.Module, sites: Sequence[ModuleSite]) -> None:
    """Raise ``ValueError`` for the first site that lies in a frozen transformer."""
    for path, module in encoder.named_modules():
        if isinstance(module, Transformer) and module.frozen:
            inside = next((site for site in sites if site.path.startswith(f"{path}.")), None)
            if inside is not None:
                raise ValueError(
                    f"{inside.path} is frozen, and what tasks share inside it has to train; set "
                    "encoder: {text: {transformer: {frozen: false}}}"
                )


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


def through_maps(x: Tensor, whose: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Each row [B, ..., i] through the one linear map that ``whose`` [B] names: [B, ..., o].

    ``weight`` [S, o, i], ``bias`` [S, o].
    """
    if followed():
        found = torch.bmm(x.view(len(x), -1, x.shape[-1]), weight[whose].transpose(1, 2))
        found = found if bias is None else found + bias[whose].unsqueeze(1)
        return found.view(*x.shape[:-1], -1)
    there, counts = torch.unique(whose, return_counts=True)
    maps = [(weight[s], None if bias is None else bias[s]) for s in there.tolist()]
    if len(maps) == 1:
        return F.linear(x, *maps[0])
    order = torch.argsort(whose, stable=True)
    pieces = torch.split(x.index_select(0, order), counts.tolist())
    found = torch.cat([F.linear(piece, *own) for piece, own in zip(pieces, maps, strict=True)])
    return found.index_select(0, torch.argsort(order))
