"""Positions inside rows, run as if they were rows: tokens of a sequence, pixels of an image.

A trunk maps rows to features, and gates, experts and towers are made for rows. Where tasks label
the positions of a row, the encoder gives one vector for each of them, position after position, and
the records ask for those: every architecture then serves such tasks as it stands, with a gate for
each token. What an encoder computes for both is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from plait.batch import Records
from plait.kinds import Place

_PLACE: ContextVar[Place] = ContextVar("place", default="row")
_MEMORY: ContextVar[dict[tuple[int, int], tuple[Tensor, Tensor]] | None] = ContextVar(
    "memory", default=None
)
_REAL: ContextVar[Tensor | None] = ContextVar("real", default=None)


@contextmanager
def at(place: Place) -> Iterator[None]:
    """Inside, encoders give a vector for each of these."""
    before = _PLACE.set(place)
    try:
        yield
    finally:
        _PLACE.reset(before)


def place() -> Place:
    """What encoders give a vector for."""
    return _PLACE.get()


@contextmanager
def padded(real: Tensor) -> Iterator[None]:
    """Inside, of the positions [rows, P] that run only these are there; the others fill up."""
    before = _REAL.set(real)
    try:
        yield
    finally:
        _REAL.reset(before)


def real() -> Tensor | None:
    """Which positions [rows, P] of the rows that run are there; None where all are."""
    return _REAL.get()


@contextmanager
def remembering() -> Iterator[None]:
    """Inside, states that serve rows and their positions are computed once."""
    before = _MEMORY.set({})
    try:
        yield
    finally:
        _MEMORY.reset(before)


def remembered(owner: object, value: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """``compute(value)``, or what it gave this owner before, inside :func:`remembering`."""
    memory = _MEMORY.get()
    if memory is None:
        return compute(value)
    key = id(owner), id(value)
    if key not in memory:
        memory[key] = value, compute(value)  # the value is kept, so that its identity stays its own
    return memory[key][1]


@dataclass(frozen=True)
class Spread:
    """Records of rows as records of their positions.

    ``records`` ask for the positions that are there; ``inside`` [N, P] says which these are.
    """

    records: Records
    inside: Tensor
    shape: tuple[int, ...]

    @classmethod
    def of(cls, records: Records, grid: Tensor) -> Spread:
        """From records of rows and which positions [B, ...] the rows have."""
        shape = tuple(grid.shape[1:])
        inside = grid.flatten(1).index_select(0, records.rows)
        record, position = inside.nonzero(as_tuple=True)
        rows = records.rows[record] * inside.shape[1] + position
        return cls(Records(records.task[record], rows), inside, shape)

    def gather(self, found: Tensor) -> Tensor:
        """What was found for the positions, [M, d], as [N, ..., d]; NaN where there is none."""
        whole = found.new_full((*self.inside.shape, found.shape[-1]), torch.nan)
        whole[self.inside] = found
        return whole.view(len(whole), *self.shape, found.shape[-1])


def by_place(
    asked: Mapping[str, Records], places: Mapping[str, Place]
) -> dict[Place, dict[str, Records]]:
    """Records by what they label, rows first."""
    found: dict[Place, dict[str, Records]] = {}
    for group in sorted(asked, key=lambda group: places[group] != "row"):
        found.setdefault(places[group], {})[group] = asked[group]
    return found
