"""Whole weights for each task: what a frozen layer would be had the task trained it for itself.

Rows of different tasks go through weights of their own, task by task; what stands between such
layers sees the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from plait.adapting.banks import OwnBank
from plait.adapting.routing import Routing
from plait.networks.routing import followed
from plait.sites import TYPED, ModuleSite


class WholeBank(OwnBank):
    """Δ [T, ...] of every parameter of one layer: task t runs with W₀ + Δ_t.

    ``tuned`` are the tasks that have slices, where some share the frozen layer.
    """

    def __init__(
        self, names: Sequence[str], base: nn.Module, tuned: Sequence[str] | None = None
    ) -> None:
        super().__init__([name for name in names if tuned is None or name in tuned])
        self.order = tuple(names)
        for name, parameter in base.named_parameters():
            self.add(name, *parameter.shape)

    def select(self, names: Sequence[str], seed: int = 0, place: str = "") -> None:
        """As :meth:`Bank.select`, for the tasks that are tuned here and those that are new."""
        kept = [name for name in names if name in self.names or name not in self.order]
        self.order = tuple(names)
        super().select(kept, seed, place)

    def place(self, task: int) -> int | None:
        """The slice of the task at that position, None where it shares the frozen layer."""
        name = self.order[task]
        return self.names.index(name) if name in self.names else None

    def pieces(self) -> Mapping[str, Sequence[Tensor]]:
        """Each parameter's slices, by its name."""
        return {name: self.stack(name).unbind(0) for name in self.starts}

    def weights(
        self, base: nn.Module, pieces: Mapping[str, Sequence[Tensor]], place: int
    ) -> Mapping[str, Tensor]:
        """The parameters of the layer for the task of that slice."""
        return {name: p + pieces[name][place] for name, p in base.named_parameters()}

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Tensor:  # noqa: ARG002
        """The frozen layer, each row with the weights of its task."""
        (x,) = inputs
        pieces = self.pieces()

        def run(task: int, rows: Tensor) -> Tensor:
            place = self.place(task)
            weights = {} if place is None else dict(self.weights(base, pieces, place))
            found: Tensor = functional_call(base, weights, (rows,))
            return found

        return apart(x, routing, run, len(self.order))

    def fold(self, base: nn.Module, task: int) -> Mapping[str, Tensor]:
        """W₀ + Δ."""
        place = self.place(task)
        return {} if place is None else self.weights(base, self.pieces(), place)


def apart(x: Tensor, routing: Routing, run: Callable[[int, Tensor], Tensor], tasks: int) -> Tensor:
    """``run(task, rows)`` for the rows [B·n, ...] of each present task, put back in their order.

    While an exporter follows the code, every task runs on all rows, which holds for any of them.
    """
    if followed():
        return _chosen(x, routing.task, run, tasks)
    groups = routing.groups()
    if len(groups) < 2:
        return run(groups[0][0] if groups else 0, x)
    count = len(routing.task)
    if len(x) % count:
        raise ValueError(f"an adapter got {len(x)} rows for {count} rows of the batch")
    by_row = x.reshape(count, -1, *x.shape[1:])
    pieces = [run(task, by_row.index_select(0, rows).flatten(0, 1)) for task, rows in groups]
    back = torch.argsort(torch.cat([rows for _, rows in groups]))
    found = torch.cat(pieces)
    return found.view(count, -1, *found.shape[1:]).index_select(0, back).flatten(0, 1)


def _chosen(x: Tensor, task: Tensor, run: Callable[[int, Tensor], Tensor], tasks: int) -> Tensor:
    own = task.repeat_interleave(x.shape[0] // task.shape[0])
    found = run(0, x)
    for number in range(1, tasks):
        mine = (own == number).view(-1, *[1] * (found.ndim - 1))
        found = torch.where(mine, run(number, x), found)
    return found


def layers_in(site: ModuleSite) -> list[ModuleSite]:
    """The layers with weights in what stands at a site, itself where it is one."""
    prefix = f"{site.path}."
    return [
        ModuleSite(site.root, path)
        for path, module in site.root.named_modules()
        if (path == site.path or path.startswith(prefix)) and is_layer(module)
    ]


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a linear layer, a convolution or a norm with weights."""
    kinds = ("linear", "convolution", "norm")
    known = any(TYPED[kind](module) for kind in kinds)
    return known and any(True for _ in module.parameters())
