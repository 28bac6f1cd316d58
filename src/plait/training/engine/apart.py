"""One backward pass for all tasks, where every row of the batch belongs to one of them.

That it does is not assumed but seen: the cotangents of Σ_i L_i and of Σ_i 2^(k_i) L_i are compared.
Multiplying by a power of two rounds nothing, so a row that only task i reaches is in the second
2^(k_i) times what it is in the first, bit for bit, and a row where tasks meet (shared inputs, batch
norm, contrasts) is not. Where the cotangents of each task are at hand already, and all below works
row by row, it is enough that no two of them have a row in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from plait.training.engine.held import Held
from plait.training.engine.passes import differentiated
from plait.training.engine.places import Places, edges, row_by_row
from plait.training.engine.roots import Root, weighed
from plait.training.engine.rules import Use

DIGIT = 64  # exponents that one comparing pass tells apart

Rows = list[tuple[Tensor, Tensor]]  # for each use its cotangent rows [N, numbers], their tasks [N]


def apart(roots: Sequence[Root], places: Places) -> list[Held] | None:
    """The forms of all uses if every row belongs to one task, or None if tasks meet somewhere.

    The roots are entries of one tensor, or the cotangents of each task where they part.
    """
    count = len(roots)
    known: Tensor | None = None
    if not isinstance(roots[0].output, Tensor):
        known = _owners([root.cotangent for root in roots if root.cotangent is not None])
        if known is None:
            return None

    def runs(uses: Sequence[Use]) -> Callable[[Tensor], list[Tensor]]:
        return lambda factors: _cotangents(*weighed(roots, factors), uses)

    ones = torch.ones(count)
    found: Rows | None
    if known is not None and row_by_row(roots[0].output.node, places):
        found = [(rows, known) for rows in runs(places.uses)(ones)]
    elif count < 3:  # as many passes as there are tasks
        return None
    else:
        found = _told_apart(runs(places.top), count)
        if found is not None and len(found) == 1 and row_by_row(places.neck, places):
            found = [(rows, found[0][1]) for rows in runs(places.uses)(ones)]
        elif found is not None:
            found = _told_apart(runs(places.uses), count)
    if found is None:
        return None
    uses = zip(places.uses, found, strict=True)
    return [part for use, (rows, task) in uses for part in use.segments(rows, task, count)]


def _owners(cotangents: Sequence[Tensor]) -> Tensor | None:
    """The task of each row [N], from the cotangents [N, ...] of every task; None if two meet."""
    if cotangents[0].ndim < 2:
        return None
    there = [cotangent.flatten(1).any(1) for cotangent in cotangents[:2]]
    if bool((there[0] & there[1]).any()):  # as soon as can be
        return None
    there += [cotangent.flatten(1).any(1) for cotangent in cotangents[2:]]
    tasks = torch.stack(there).byte()
    if len(there) > 2 and bool((tasks.sum(0) > 1).any()):
        return None
    return tasks.argmax(0)


def _told_apart(run: Callable[[Tensor], list[Tensor]], count: int) -> Rows | None:
    """The rows of Σ_i L_i and the task of each; ``run`` gives those of Σ_i c_i L_i, c [t]."""
    whole = run(torch.ones(count))
    tasks = [torch.zeros(len(rows), dtype=torch.long, device=rows.device) for rows in whole]
    numbers = torch.arange(count)
    place = 1
    while place < count:
        exponents = numbers // place % DIGIT - DIGIT // 2
        coded = run(torch.ldexp(torch.ones(count), exponents))
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


def _cotangents(
    outputs: Sequence[Any], starts: Sequence[Tensor | None], uses: Sequence[Use]
) -> list[Tensor]:
    """The rows of one pass at every use, those of its operations one after another."""
    ends = [edge for use in uses for edge in edges(use)]
    deltas = iter(differentiated(outputs, ends, starts))
    rows = []
    for use in uses:
        parts = [use.rows(_given(next(deltas), node)) for node in use.nodes]
        rows.append(parts[0] if len(parts) == 1 else torch.cat(parts))
    return rows


def _given(delta: Tensor | None, node: Any) -> Tensor:
    if delta is not None:
        return delta
    like = node._input_metadata[0]
    return torch.zeros(like.shape, dtype=like.dtype, device=like.device)
