"""Every task's gradient on the shared parameters, in the cheapest exact form.

Rows that belong to one task each need one pass for all tasks. That they do is not assumed but seen:
the cotangents of Σ_i L_i and of Σ_i 2^(k_i) L_i are compared. Multiplying by a power of two rounds
nothing, so a row that only task i reaches is in the second 2^(k_i) times what it is in the first,
bit for bit, and a row where tasks meet (shared inputs, batch norm, contrasts) is not.

Otherwise each task takes a backward pass of its own. In a layer that sees few rows it stops at the
cotangents, and the layer's weight gradients are never formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, Rung
from plait.training.engine.held import Dense, Held
from plait.training.engine.places import Places, edges, find
from plait.training.engine.roots import Root, one_graph, weighed
from plait.training.engine.rules import Use

FEW = 2**16  # parameters: below, starting operations takes longer than running them
DIGIT = 64  # exponents that one comparing pass tells apart


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

    def tasks_together(self, parameters: Sequence[nn.Parameter]) -> int:
        """How many tasks share a backward pass."""
        if self.chunk is not None:
            return self.chunk
        return 16 if sum(parameter.numel() for parameter in parameters) <= FEW else 1


@dataclass(frozen=True)
class Gathered:
    """The gradients of ``count`` tasks on the shared parameters, held part by part.

    Parameters that no task reached are in no part.
    """

    parameters: Sequence[Tensor]
    held: Sequence[Held]
    count: int

    @classmethod
    def of(cls, parameters: Sequence[Tensor], blocks: Sequence[Tensor | None]) -> Gathered:
        """From blocks [t, *shape], None where unreached."""
        held: list[Held] = [
            Dense((k,), block) for k, block in enumerate(blocks) if block is not None
        ]
        return cls(parameters, held, next((len(b) for b in blocks if b is not None), 0))

    @cached_property
    def grams(self) -> list[Tensor]:
        """The inner products [t, t] of each part."""
        return [part.gram() for part in self.held]

    def gram(self) -> Tensor:
        """Inner products [t, t], in float64."""
        return self._summed(self.grams)

    def layers(self, layer_of: Sequence[int]) -> Tensor:
        """Inner products for each layer [g, t, t]; ``layer_of`` gives each parameter's."""
        found: list[list[Tensor]] = [[] for _ in range(max(layer_of, default=-1) + 1)]
        for part, gram in zip(self.held, self.grams, strict=True):
            found[layer_of[part.places[0]]].append(gram)
        return torch.stack([self._summed(grams) for grams in found])

    def finite(self) -> Tensor:
        """Which tasks' gradients are finite, [t]."""
        found = torch.ones(self.count, dtype=torch.bool)
        for place, part in enumerate(self.held):
            if isinstance(part, Dense):  # their products may not be wanted
                size = torch.linalg.vector_norm(part.block.flatten(1), dim=1)
            else:
                size = self.grams[place].diagonal()
            found = found.to(size.device) & size.isfinite()
        return found

    def _summed(self, grams: Sequence[Tensor]) -> Tensor:
        total = torch.zeros(self.count, self.count, dtype=torch.float64)
        if grams:
            device = grams[0].device
            total = total.to(device, torch.float32 if device.type == "mps" else torch.float64)
        for gram in grams:
            total += gram
        return (total + total.T) / 2

    def update(self, weights: Tensor, layer_of: Sequence[int] | None = None) -> list[Tensor | None]:
        """Σ_i w_i g_i for every parameter, w [t] or, by layer, [g, t]."""
        found: list[Tensor | None] = [None] * len(self.parameters)
        for part in self.held:
            mine = weights if layer_of is None else weights[layer_of[part.places[0]]]
            for place, update in zip(part.places, part.update(mine), strict=True):
                found[place] = update.to(self.parameters[place].dtype)
        return found

    def only(self, kept: list[int]) -> Gathered:
        """The gradients of some tasks."""
        held = [part.only(kept) for part in self.held]
        return Gathered(self.parameters, held, len(kept))

    def jacobian(self) -> Tensor:
        """The gradients in one tensor [t, P], zero for parameters that no task reached."""
        sizes = [parameter.numel() for parameter in self.parameters]
        bases = [part.block._base if isinstance(part, Dense) else None for part in self.held]
        base = bases[0] if bases else None
        whole = (self.count, sum(sizes))
        if base is not None and base.shape == whole and all(one is base for one in bases):
            return base  # the parts are views of it already
        like = self.parameters[0]
        flat = torch.zeros(whole, dtype=like.dtype, device=like.device)
        views = torch.split(flat, sizes, 1)
        for part in self.held:
            for place, rows in zip(part.places, part.rows(), strict=True):
                views[place].copy_(rows.flatten(1))
        return flat

    def blocks(self) -> list[Tensor | None]:
        """The gradients [t, *shape] of every parameter, None where no task reached it.

        They are views of one tensor [t, P], so that the Jacobian is no copy of them.
        """
        sizes = [parameter.numel() for parameter in self.parameters]
        pieces = torch.split(self.jacobian(), sizes, 1)
        reached = {place for part in self.held for place in part.places}
        pairs = enumerate(zip(pieces, self.parameters, strict=True))
        return [v.view(-1, *p.shape) if place in reached else None for place, (v, p) in pairs]

    def plus(self, other: Gathered) -> Gathered:
        """The sums of the same tasks' gradients; what is held here is given up."""
        total = self.blocks()
        for place, block in enumerate(other.blocks()):
            mine = total[place]
            if mine is not None and block is not None:
                mine += block
            elif block is not None:
                total[place] = block
        return Gathered.of(self.parameters, total)

    def spread(self, rows: Tensor, count: int) -> Gathered:
        """The same among ``count`` tasks, where these are at ``rows``; the others have zeros."""
        held: list[Held] = []
        for place, block in enumerate(self.blocks()):
            if block is not None:
                whole = block.new_zeros(count, *block.shape[1:])
                held.append(Dense((place,), whole.index_copy_(0, rows, block)))
        return Gathered(self.parameters, held, count)


def layers(parameters: Sequence[Tensor]) -> list[int]:
    """The layer of every parameter: one of two dimensions or more, and the vectors after it."""
    found, number = [], -1
    for parameter in parameters:
        if parameter.ndim > 1 or number < 0:
            number += 1
        found.append(number)
    return found


def gather(
    roots: Sequence[Root],
    parameters: Sequence[nn.Parameter],
    engine: Engine,
    balancer: Balancer | None = None,
    *,
    whole: bool = False,
) -> Gathered:
    """The gradients of every root's task; the graph is kept for what follows.

    ``whole`` is for those who want the gradients themselves, not their products. What is asked for
    by layer is held by layer.
    """
    if len(roots) < 2:
        return _by_task(roots, parameters, engine, ())
    places = find(roots, parameters)
    if len(roots) > 2 and not places.plain:
        found = _one_pass(roots, places)
        if found is not None:
            return Gathered(parameters, found, len(roots))
    whole |= balancer is not None and balancer.rung is Rung.JACOBIAN
    uses = [] if whole else [use for use in places.uses if use.pays(len(roots))]
    if balancer is not None and balancer.by_layer:  # a bias may not lie beside its weight
        layer_of = layers(parameters)
        uses = [use for use in uses if len({layer_of[place] for place in use.places}) == 1]
    return _by_task(roots, parameters, engine, uses, whole=whole)


def _by_task(
    roots: Sequence[Root],
    parameters: Sequence[nn.Parameter],
    engine: Engine,
    uses: Sequence[Use],
    *,
    whole: bool = False,
) -> Gathered:
    """A backward pass for each task, or for a chunk of them."""
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
    chunk = engine.tasks_together(parameters)
    rows = stacked(roots, wanted, chunk, strict=engine.chunk is not None, into=into)
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


def stacked(
    roots: Sequence[Root],
    wanted: Sequence[Any],
    chunk: int,
    *,
    strict: bool = False,
    into: Sequence[Tensor] = (),
) -> list[tuple[Tensor | None, bool]]:
    """Gradients [t, ...] of every root at every wanted place, and whether they came sparse.

    ``into`` are tensors of zeros that take them.
    """
    found: list[Tensor | None] = [None] * len(wanted)
    sparse = [False] * len(wanted)
    chunk = chunk if one_graph(roots) else 1
    for low in range(0, len(roots), chunk):
        some = roots[low : low + chunk]
        for k, rows in enumerate(_rows(some, wanted, strict=strict)):
            if rows is None:
                continue
            if rows.layout is not torch.strided:
                rows, sparse[k] = rows.to_dense(), True
            if found[k] is None:
                found[k] = into[k] if into else rows.new_zeros(len(roots), *rows.shape[1:])
            found[k][low : low + len(some)] = rows  # type: ignore[index]
    return list(zip(found, sparse, strict=True))


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
    outputs: Sequence[Tensor], wanted: Sequence[Any], starts: Sequence[Tensor | None]
) -> Sequence[Tensor | None]:
    """Gradients at every wanted place; the graph is kept."""
    try:
        return torch.autograd.grad(outputs, wanted, starts, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "donated buffer" not in str(error):
            raise
        raise ValueError(
            "the compiled network gives its memory away in the first backward pass, and tasks take "
            "several: set torch._functorch.config.donated_buffer = False before it is compiled"
        ) from error


# -- one pass for all tasks ------------------------------------------------------------------------


def _one_pass(roots: Sequence[Root], places: Places) -> list[Held] | None:
    """The forms of all uses if every row belongs to one task; None if tasks meet somewhere."""
    found = _told_apart(roots, places.top)
    if found is not None and places.apart:  # what holds at the top holds below
        ones = torch.ones(len(roots))
        found = [(rows, found[0][1]) for rows in _cotangents(roots, places.uses, ones)]
    elif found is not None:
        found = _told_apart(roots, places.uses)
    if found is None:
        return None
    count = len(roots)
    return [
        part
        for use, (rows, task) in zip(places.uses, found, strict=True)
        for part in use.segments(rows, task, count)
    ]


def _told_apart(roots: Sequence[Root], uses: Sequence[Use]) -> list[tuple[Tensor, Tensor]] | None:
    """For each use the cotangent rows [N, numbers] of Σ_i L_i and the task [N] of each row."""
    count = len(roots)
    whole = _cotangents(roots, uses, torch.ones(count))
    tasks = [torch.zeros(len(rows), dtype=torch.long, device=rows.device) for rows in whole]
    numbers = torch.arange(count)
    place = 1
    while place < count:
        exponents = numbers // place % DIGIT - DIGIT // 2
        coded = _cotangents(roots, uses, torch.ldexp(torch.ones(count), exponents))
        for rows, other, task in zip(whole, coded, tasks, strict=True):
            digits = _digits(rows, other)
            if digits is None:
                return None
            task += digits * place
        place *= DIGIT
    if any(bool((task >= count).any()) for task in tasks):
        return None
    return list(zip(whole, tasks, strict=True))


def _digits(rows: Tensor, coded: Tensor) -> Tensor | None:
    """The digit of each row's task; 0 for a row of zeros, None where a row is no power apart."""
    size, other = rows.abs().amax(1), coded.abs().amax(1)
    there = size > 0
    mantissa, power = torch.frexp(torch.where(there, other / size, 1.0))
    exact = torch.ldexp(rows, (power - 1)[:, None].to(rows.dtype)) == coded
    digits = power.long() - 1 + DIGIT // 2
    if not bool((exact.all(1) & (mantissa == 0.5) & (digits >= 0) & (digits < DIGIT)).all()):
        return None
    return torch.where(there, digits, 0)


def _cotangents(roots: Sequence[Root], uses: Sequence[Use], factors: Tensor) -> list[Tensor]:
    """The rows of Σ_i c_i L_i at every use, those of its operations one after another."""
    outputs, starts = weighed(roots, factors.to(roots[0].output.device))
    ends = [edge for use in uses for edge in edges(use)]
    deltas = iter(differentiated(outputs, ends, starts))
    rows = []
    for use in uses:
        parts = [use.rows(_given(next(deltas), node)) for node in use.nodes]
        rows.append(parts[0] if len(parts) == 1 else torch.cat(parts))
    return rows


def _given(delta: Tensor | None, node: Any) -> Tensor:
    return _filled(None, node, 1)[0] if delta is None else delta
