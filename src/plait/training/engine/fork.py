"""Where the tasks part: the last tensor that all losses are made of, and what each reads of it.

One backward pass of Σ_i L_i gives the cotangent of every task there: what its own operations hand
down, before autograd adds them up. On the way it gives the gradients of each task's head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from plait.training.engine.passes import Own, differentiated
from plait.training.engine.roots import Root, weighed
from plait.training.graph import Graph


@dataclass(frozen=True)
class Fork:
    """The edge at which the tasks part, and by task the operations that read it: node and slot."""

    edge: GradientEdge
    readers: tuple[tuple[tuple[Any, int], ...], ...]

    @property
    def size(self) -> int:
        """The numbers in the tensor there."""
        return int(torch.Size(self._like.shape).numel())

    @property
    def _like(self) -> Any:
        return self.edge.node._input_metadata[self.edge.output_nr]

    def is_at(self, feature: Tensor) -> bool:
        """Whether this is where a tensor was made."""
        return feature.grad_fn is self.edge.node and feature.output_nr == self.edge.output_nr

    def moved(self, roots: Sequence[Root], own: Own | None) -> list[Root]:
        """The roots, moved down to the edge."""
        return [Root(self.edge, row) for row in self.cotangents(roots, own)]

    def cotangents(self, roots: Sequence[Root], own: Own | None) -> Tensor:
        """The cotangents of every task at the edge, [t, ...]."""
        like = self._like
        rows = torch.empty(len(roots), *like.shape, dtype=like.dtype, device=like.device)
        seen: set[int] = set()
        hooks = [
            node.register_hook(partial(_add, seen, number, rows[number], slot))
            for number, readers in enumerate(self.readers)
            for node, slot in readers
        ]
        mine = [[] if own is None else own.take(number) for number in range(len(roots))]
        try:
            heads = [parameter for parameters in mine for parameter in parameters]
            outputs, starts = weighed(roots, torch.ones(len(roots)))
            _, *gradients = differentiated(outputs, [self.edge, *heads], starts)
        finally:
            for hook in hooks:
                hook.remove()
        for number, parameters in enumerate(mine):
            if own is not None:
                own.give(number, parameters, gradients[: len(parameters)])
                gradients = gradients[len(parameters) :]
            if number not in seen:
                rows[number] = 0
        return rows


def fork_of(roots: Sequence[Root], graph: Graph, shared: Sequence[nn.Parameter]) -> Fork | None:
    """Where scalar losses part, if there is one such place and all that is shared lies below."""
    if len(roots) < 2 or any(root.cotangent is not None for root in roots):
        return None
    readers: list[list[tuple[Any, int]]] = [[] for _ in roots]
    known = set(map(id, shared))
    theirs = {node for node, leaf in graph.leaves.items() if id(leaf) in known}
    masks, leaves = graph.masks, graph.leaves
    place: tuple[Any, int] | None = None
    for node, pairs in graph.inputs.items():
        mask = masks[node]
        if mask & (mask - 1):
            continue
        for slot, (source, output) in enumerate(pairs):
            if source in theirs:
                return None
            if source is None or source in leaves or not masks[source] & (masks[source] - 1):
                continue
            if place is None:
                place = source, output
            elif place != (source, output):
                return None
            readers[mask.bit_length() - 1].append((node, slot))
    for root in roots:
        mask = masks[root.output.grad_fn]
        if mask & (mask - 1):  # others are made of this loss
            return None
    return None if place is None else Fork(GradientEdge(*place), tuple(map(tuple, readers)))


def _add(
    seen: set[int], number: int, row: Tensor, slot: int, inputs: tuple[Tensor | None, ...], _: Any
) -> None:
    """Add what an operation hands down to its task's row."""
    gradient = inputs[slot]
    if gradient is None:
        return
    if number in seen:
        row += gradient
    else:
        row.copy_(gradient)
        seen.add(number)
