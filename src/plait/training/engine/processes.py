"""Several processes, each with rows of its own: sums over all of them, tensor by tensor.

Gramians do not add over processes and weights are no linear function of gradients, so it is the
Jacobian that is summed, a parameter at a time, before anything is made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from plait.training.engine.gathered import Gathered
from plait.training.engine.held import Dense, Held


@dataclass(frozen=True)
class Processes:
    """The processes of a ``torch.distributed`` group."""

    group: Any = None

    @property
    def size(self) -> int:
        """How many there are."""
        return dist.get_world_size(self.group)

    @property
    def rank(self) -> int:
        """The number of this one."""
        return dist.get_rank(self.group)

    def total(self, value: Tensor) -> Tensor:
        """The sum over processes."""
        value = value.detach().clone()
        dist.all_reduce(value, group=self.group)
        return value

    def union(self, names: Sequence[str]) -> tuple[str, ...]:
        """The names that any process has, in the order of the first that has each."""
        found: list[Sequence[str]] = [()] * self.size
        dist.all_gather_object(found, tuple(names), group=self.group)
        return tuple(dict.fromkeys(name for some in found for name in some))

    def gradients(
        self, found: Sequence[Tensor | None], like: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Sums of gradients; ``like`` has the shapes where this process has none."""
        if not found:
            return []
        there = torch.tensor([gradient is not None for gradient in found], dtype=torch.float32)
        reached = self.total(there.to(like[0].device)) > 0
        summed: list[Tensor | None] = []
        for gradient, shape, yes in zip(found, like, reached.tolist(), strict=True):
            if not yes:
                summed.append(None)
                continue
            mine = torch.zeros_like(shape) if gradient is None else gradient.to_dense()
            summed.append(self.total(mine))
        return summed

    def gathered(self, found: Gathered) -> Gathered:
        """The task gradients of all processes, one parameter after another."""
        mine = found.blocks()
        like = [p.detach().expand(found.count, *p.shape) for p in found.parameters]
        blocks = self.gradients(mine, like)
        held: list[Held] = [Dense((k,), b) for k, b in enumerate(blocks) if b is not None]
        return Gathered(found.parameters, held, found.count)


def world() -> Processes | None:
    """The processes of a run that has several, or None."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return Processes()
    return None
