"""Backward passes of autograd: one for each task, or several tasks in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from plait.training.engine.roots import Root, one_graph


class Own:
    """What one task alone reaches: its gradients come with the task's own pass, unweighted.

    ``heads`` are the parameters that are not shared, each with the tasks that reach it as a bit
    mask. ``rest`` are those that no pass has been through.
    """

    def __init__(
        self, roots: Sequence[Root], tasks: Sequence[str], heads: Mapping[nn.Parameter, int]
    ) -> None:
        self.tasks = tasks
        self.heads = heads
        self.found: list[tuple[str, list[nn.Parameter], Sequence[Tensor | None]]] = []
        self._wanted: list[list[nn.Parameter]] = [[] for _ in roots]
        self._several: list[nn.Parameter] = []
        alone = bool(roots) and all(root.cotangent is None for root in roots)
        for parameter, mask in heads.items():
            if alone and not mask & (mask - 1):
                self._wanted[mask.bit_length() - 1].append(parameter)
            else:
                self._several.append(parameter)

    def take(self, number: int) -> list[nn.Parameter]:
        """What the next pass of a task is to go through."""
        mine, self._wanted[number] = self._wanted[number], []
        return mine

    def give(
        self, number: int, parameters: list[nn.Parameter], gradients: Sequence[Tensor | None]
    ) -> None:
        """What the pass has found."""
        if parameters:
            self.found.append((self.tasks[number], parameters, gradients))

    @property
    def rest(self) -> list[nn.Parameter]:
        """Those whose gradients are still to be found."""
        return [*self._several, *(parameter for mine in self._wanted for parameter in mine)]


def stacked(
    roots: Sequence[Root],
    wanted: Sequence[Any],
    chunk: int,
    *,
    strict: bool = False,
    into: Sequence[Tensor] = (),
    own: Own | None = None,
) -> list[tuple[Tensor | None, bool]]:
    """Gradients [t, ...] of every root at every wanted place, and whether they came sparse.

    ``into`` are tensors of zeros that take them.
    """
    found: list[Tensor | None] = [None] * len(wanted)
    sparse = [False] * len(wanted)
    chunk = chunk if one_graph(roots) else 1
    for low in range(0, len(roots), chunk):
        some = roots[low : low + chunk]
        mine = own.take(low) if own is not None and chunk == 1 else []
        rows = _rows(some, [*wanted, *mine], strict=strict)
        if own is not None:
            own.give(low, mine, [None if row is None else row[0] for row in rows[len(wanted) :]])
        for k, row in enumerate(rows[: len(wanted)]):
            if row is None:
                if found[k] is not None:
                    found[k][low : low + len(some)] = 0  # type: ignore[index]
                continue
            if row.layout is not torch.strided:
                row, sparse[k] = row.to_dense(), True
            if found[k] is None:
                found[k] = into[k] if into else _room(row, len(roots), low)
            found[k][low : low + len(some)] = row  # type: ignore[index]
    return list(zip(found, sparse, strict=True))


def _room(row: Tensor, count: int, filled: int) -> Tensor:
    """A place for the rows of ``count`` tasks, the first ``filled`` of which are zero."""
    room = row.new_empty(count, *row.shape[1:])
    room[:filled] = 0
    return room


def _rows(roots: Sequence[Root], wanted: Sequence[Any], *, strict: bool) -> list[Tensor | None]:
    """Gradients [some tasks, ...] at every wanted place."""
    given: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
    if len(roots) == 1:
        found = differentiated([roots[0].output], wanted, [roots[0].cotangent])
        return [None if gradient is None else gradient.unsqueeze(0) for gradient in found]
    starts = torch.stack([root.cotangent for root in roots if root.cotangent is not None])
    try:
        return list(
            torch.autograd.grad(roots[0].output, wanted, starts, is_grads_batched=True, **given)
        )
    except RuntimeError:  # a function in the network that cannot be run for several tasks at once
        if strict:
            raise
    alone = [_rows([root], wanted, strict=False) for root in roots]
    return [
        None if rows[0] is None else torch.cat([row for row in rows if row is not None])
        for rows in zip(*alone, strict=True)
    ]


def differentiated(
    outputs: Sequence[Any], wanted: Sequence[Any], starts: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients at every wanted place; the graph is kept.

    Autograd captures what arrives at an edge, before hooks on the tensor there, if the pass goes on
    below it. What the operation is run with is what its parameters' gradients are made of.
    """
    seen: dict[int, Tensor] = {}
    hooks = [
        place.node.register_prehook(partial(_keep, seen, k, place.output_nr))
        for k, place in enumerate(wanted)
        if isinstance(place, GradientEdge)
    ]
    try:
        found = torch.autograd.grad(outputs, wanted, starts, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "donated buffer" not in str(error):
            raise
        raise ValueError(
            "the compiled network gives its memory away in the first backward pass, and tasks take "
            "several: set torch._functorch.config.donated_buffer = False before it is compiled"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return [seen.get(k, gradient) for k, gradient in enumerate(found)]


def _keep(
    seen: dict[int, Tensor], place: int, slot: int, gradients: tuple[Tensor | None, ...]
) -> None:
    gradient = gradients[slot]
    if gradient is not None:
        seen[place] = gradient
