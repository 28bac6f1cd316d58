"""The task gradients of all shared parameters together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from plait.training.engine.held import Dense, Held, flat


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
        return self._gram

    @cached_property
    def _gram(self) -> Tensor:
        return self._summed(self.grams)

    def layers(self, layer_of: Sequence[int]) -> Tensor:
        """Inner products for each layer [g, t, t]; ``layer_of`` gives each parameter's."""
        found: list[list[Tensor]] = [[] for _ in range(max(layer_of, default=-1) + 1)]
        for part, gram in zip(self.held, self.grams, strict=True):
            found[layer_of[part.places[0]]].append(gram)
        return torch.stack([self._summed(grams) for grams in found])

    def finite(self, *, products: bool = False) -> Tensor:
        """Which tasks' gradients are finite, [t]; by their ``products`` where those are wanted."""
        if products:
            return self.gram().diagonal().isfinite()
        found = torch.ones(self.count, dtype=torch.bool)
        for place, part in enumerate(self.held):
            if isinstance(part, Dense):
                size = torch.linalg.vector_norm(flat(part.block), dim=1)
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

    def times(self, factor: Tensor) -> Gathered:
        """The gradients times a number."""
        return Gathered(self.parameters, [part.times(factor) for part in self.held], self.count)

    def jacobian(self) -> Tensor:
        """The gradients in one tensor [t, P], zero for parameters that no task reached."""
        sizes = [parameter.numel() for parameter in self.parameters]
        bases = [part.block._base if isinstance(part, Dense) else None for part in self.held]
        base = bases[0] if bases else None
        whole = (self.count, sum(sizes))
        if base is not None and base.shape == whole and all(one is base for one in bases):
            return base  # the parts are views of it already
        like = self.parameters[0]
        found = torch.zeros(whole, dtype=like.dtype, device=like.device)
        views = torch.split(found, sizes, 1)
        for part in self.held:
            for place, rows in zip(part.places, part.rows(), strict=True):
                views[place].copy_(flat(rows))
        return found

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
