"""Stages: what a pipeline is made of.

A stage sees one block of one tensor at a time, cut as its *grain* says: any run of elements
[M, n], whole rows [M, rows, width], or whole tensors [M, *s] (a single number is [M, 1]). What it
must know of more than its block (a threshold, a norm, a majority) it finds in *passes* over the
data beforehand: in each, ``scan`` makes a small array of a block, ``join`` adds the arrays up in
the order of the blocks, and ``settle`` makes of the total what later passes and the stage itself
read in ``ctx.found``. With ``whole`` the total is over the whole model, else over each tensor.

Stages are frozen dataclasses without state: whatever they find is in the context. So a merge gives
the same bits for any number of workers, and memory holds blocks, never models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np

from plait.merging.draws import Draws
from plait.merging.pool import Array
from plait.weights.sites import Site


class Grain(IntEnum):
    """How a stage wants a tensor cut, from the finest to none."""

    ELEMENT = 0
    ROW = 1
    TENSOR = 2

    def shaped(self, values: Array, site: Site, lead: int) -> Array:
        """A view of a block with ``lead`` leading axes, its values shaped as the grain says."""
        front = values.shape[:lead]
        match self:
            case Grain.ELEMENT:
                return values.reshape((*front, -1))
            case Grain.ROW:
                return values.reshape((*front, -1, site.width))
        return values.reshape((*front, *(site.shape or (1,))))


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a stage works, and what is known there.

    ``start`` is the place of the block's first value in the flat tensor, ``base`` [*s] the block of
    the base. ``original`` [M, *s] are the deltas before any edit, for stages that declare
    ``looks_back``; ``deltas`` [M, *s] those edited so far, where nothing has overwritten them.
    ``coefficients`` [M] are those found so far. ``found`` is what the stage's own passes have
    found, one entry for each; ``findings`` has that of every stage before it.
    """

    site: Site
    models: tuple[str, ...]
    layers: int
    start: int
    base: Array | None
    original: Array | None
    deltas: Array
    coefficients: Array
    found: tuple[Any, ...]
    findings: Mapping[Stage, tuple[Any, ...]]

    def draws(self, seed: int, model: str) -> Draws:
        """Random numbers of this seed, model and tensor: the same for any cut into blocks."""
        return Draws(seed=seed, words=(model, self.site.name))


@dataclass
class Block:
    """A block on its way through the stages."""

    site: Site
    start: int
    base: Array | None
    original: Array | None
    deltas: Array
    coefficients: Array
    delta: Array = field(default_factory=lambda: np.empty(0))
    kept: Mapping[str, Array] = field(default_factory=dict)


class Stage(ABC):
    """One step of a pipeline; see the module's docstring."""

    grain: ClassVar[Grain] = Grain.ELEMENT
    looks_back: ClassVar[bool] = False

    @property
    def whole(self) -> bool:
        """Whether its passes are over the whole model, not over each tensor."""
        return False

    def passes(self, working: np.dtype[Any]) -> int:  # noqa: ARG002
        """How many passes over the data it needs first, sums being formed in that type."""
        return 0

    def scan(self, values: Array, ctx: Context) -> Array:
        """A small array of one block in pass ``len(ctx.found)``."""
        raise NotImplementedError(f"{type(self).__name__} has passes and no scan")

    def join(self, total: Array, more: Array) -> Array:
        """The total with one more block's array."""
        total += more
        return total

    def settle(self, total: Array, found: tuple[Any, ...]) -> Any:  # noqa: ARG002
        """What a pass has found; it is kept to the end of the merge, so it should be small."""
        return total

    def view(self, block: Block) -> Array:
        """The values of a block that the stage works on, shaped by its grain."""
        return self.grain.shaped(block.deltas, block.site, 1)

    @abstractmethod
    def run(self, block: Block, ctx: Context) -> None:
        """Do its work on a block."""


class Edit(Stage):
    """A stage that changes the models' deltas: [M, *s] → [M, *s]; it may write into them."""

    @abstractmethod
    def __call__(self, deltas: Array, ctx: Context) -> Array: ...

    def run(self, block: Block, ctx: Context) -> None:
        """Put the edited deltas into the block."""
        block.deltas = self(self.view(block), ctx)


class Coefficients(Stage):
    """A stage that finds one coefficient for each model at a site: deltas [M, *s] → [M]."""

    @abstractmethod
    def __call__(self, deltas: Array, ctx: Context) -> Array: ...

    def run(self, block: Block, ctx: Context) -> None:
        """Multiply the block's coefficients."""
        block.coefficients = block.coefficients * self(self.view(block), ctx)


class Combine(Stage):
    """The stage that makes one delta of M: (deltas [M, *s], coefficients [M]) → [*s].

    It may write into the deltas. ``linear`` ones scale with the coefficients, so that a search over
    one common factor combines only once.
    """

    @property
    def linear(self) -> bool:
        """Whether it scales with the coefficients."""
        return False

    @abstractmethod
    def __call__(self, deltas: Array, coefficients: Array, ctx: Context) -> Array: ...

    def run(self, block: Block, ctx: Context) -> None:
        """Put the one delta into the block."""
        coefficients = block.coefficients.astype(block.site.working)
        block.delta = self(self.view(block), coefficients, ctx)


class Finish(Stage):
    """A stage that changes the combined delta: [*s] → [*s]; it may write into it."""

    @abstractmethod
    def __call__(self, delta: Array, ctx: Context) -> Array: ...

    def view(self, block: Block) -> Array:
        """The combined delta."""
        return self.grain.shaped(block.delta, block.site, 0)

    def run(self, block: Block, ctx: Context) -> None:
        """Put the finished delta into the block."""
        block.delta = self(self.view(block), ctx)


class Overlay(Stage):
    """What every task keeps of its own beside the merged delta, and how it is served from it.

    ``layout`` says what is kept for a site: type and shape by name, ``("BOOL", site.shape)`` for
    masks, which are stored as bits. ``keep`` gives it, one row for each model: masks [M, *s] of
    every block, anything else [M, …] the same for all blocks of a tensor. ``serve`` makes a task's
    own delta [*s] from the merged one [*s] and the task's rows, shaped as laid out. An overlay that
    does not ``share`` the merged delta is served from zeros.
    """

    shares: ClassVar[bool] = True

    @abstractmethod
    def layout(self, site: Site) -> Mapping[str, tuple[str, tuple[int, ...]]]: ...

    @abstractmethod
    def keep(self, delta: Array, ctx: Context) -> Mapping[str, Array]: ...

    @abstractmethod
    def serve(self, delta: Array, kept: Mapping[str, Array]) -> Array: ...

    def view(self, block: Block) -> Array:
        """The combined delta."""
        return self.grain.shaped(block.delta, block.site, 0)

    def run(self, block: Block, ctx: Context) -> None:
        """Put what is kept into the block."""
        block.kept = self.keep(self.view(block), ctx)
