"""Every task's gradient on the shared parameters, in the cheapest exact form.

Rows that belong to one task each need one pass for all tasks (:mod:`.apart`). Otherwise each task
takes a backward pass of its own. In a layer that sees few rows it stops at the cotangents, and the
layer's weight gradients are never formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, Rung
from plait.training.engine.apart import apart
from plait.training.engine.fork import fork_of
from plait.training.engine.gathered import Gathered, layers
from plait.training.engine.held import Dense, Held
from plait.training.engine.passes import Own, stacked
from plait.training.engine.places import edges, find
from plait.training.engine.roots import Root, one_graph
from plait.training.engine.rules import Use
from plait.training.graph import Graph

FEW = 2**16  # parameters: below, starting operations takes longer than running them


@dataclass(frozen=True)
class Engine:
    """How exact task gradients are obtained; what is not said is chosen by layer and shape.

    ``chunk`` tasks go through one batched backward pass where losses are one stacked tensor. ``at``
    ``"features"`` balances by the gradients at the shared representation, which is cheaper and not
    the same; None leaves it to the balancer. ``group`` is the ``torch.distributed`` group whose
    processes ``backward`` sums over; ``fit`` finds its own.
    """

    chunk: int | None = None
    at: str | None = None
    group: Any = None

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {self.chunk}")
        if self.at not in (None, "shared", "last", "features"):
            raise ValueError(f"at must be 'shared', 'last' or 'features', got {self.at!r}")

    def tasks_together(self, roots: Sequence[Root], parameters: Sequence[nn.Parameter]) -> int:
        """How many tasks share a backward pass."""
        if self.chunk is not None:
            return self.chunk if one_graph(roots) else 1
        if not isinstance(roots[0].output, Tensor) or not one_graph(roots):
            return 1
        return 16 if sum(parameter.numel() for parameter in parameters) <= FEW else 1


def gather(
    roots: Sequence[Root],
    parameters: Sequence[nn.Parameter],
    engine: Engine,
    balancer: Balancer | None = None,
    *,
    whole: bool = False,
    graph: Graph | None = None,
    own: Own | None = None,
) -> Gathered:
    """The gradients of every root's task; the graph is kept for what follows.

    ``whole`` is for those who want the gradients themselves, not their products. What is asked for
    by layer is held by layer. ``graph`` is that of the losses where it has been read: then it
    is seen where they part, and ``own`` takes the gradients of heads that passes come by.
    """
    if len(roots) < 2:
        return _by_task(roots, parameters, engine, (), own=own)
    places = find(parameters, Graph.of(roots) if graph is None else graph)
    fork = None if graph is None else fork_of(roots, graph, parameters)
    if fork is not None and fork.size <= sum(parameter.numel() for parameter in parameters):
        roots = fork.moved(roots, own)
    if not places.plain:
        found = apart(roots, places)
        if found is not None:
            return Gathered(parameters, found, len(roots))
    whole |= balancer is not None and balancer.rung is Rung.JACOBIAN
    uses = [] if whole else [use for use in places.uses if use.pays(len(roots))]
    if balancer is not None and balancer.by_layer:  # a bias may not lie beside its weight
        layer_of = layers(parameters)
        uses = [use for use in uses if len({layer_of[place] for place in use.places}) == 1]
    return _by_task(roots, parameters, engine, uses, whole=whole, own=own)


def _by_task(
    roots: Sequence[Root],
    parameters: Sequence[nn.Parameter],
    engine: Engine,
    uses: Sequence[Use],
    *,
    whole: bool = False,
    own: Own | None = None,
) -> Gathered:
    """A backward pass for each task, or for a chunk of them."""
    chunk = engine.tasks_together(roots, parameters)
    uses = uses if chunk == 1 else ()  # what several tasks' passes see on the way is not kept
    covered = {place for use in uses for place in use.places}
    plain = [place for place in range(len(parameters)) if place not in covered]
    ends = [edge for use in uses for edge in edges(use)]
    wanted = [*ends, *(parameters[place] for place in plain)]
    into: Sequence[Tensor] = ()
    if whole:  # one tensor holds them from the start, so that the Jacobian is no copy
        sizes = [parameter.numel() for parameter in parameters]
        flat = parameters[0].new_zeros(len(roots), sum(sizes))
        pairs = zip(torch.split(flat, sizes, 1), parameters, strict=True)
        into = [view.view(len(roots), *parameter.shape) for view, parameter in pairs]
    rows = stacked(roots, wanted, chunk, strict=engine.chunk is not None, into=into, own=own)
    held: list[Held] = []
    start = 0
    for use in uses:
        mine = rows[start : start + len(use.nodes)]
        start += len(use.nodes)
        if all(row is None for row, _ in mine):
            continue
        both = zip(mine, use.nodes, strict=True)
        held.append(use.kernel([_filled(row, node, len(roots)) for (row, _), node in both]))
    for place, (row, sparse) in zip(plain, rows[start:], strict=True):
        if row is not None:
            held.append(Dense((place,), row, sparse))
    return Gathered(parameters, held, len(roots))


def _filled(row: Tensor | None, node: Any, count: int) -> Tensor:
    if row is not None:
        return row
    like = node._input_metadata[0]
    return torch.zeros(count, *like.shape, dtype=like.dtype, device=like.device)
