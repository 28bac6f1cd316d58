"""What one step tells a balancer, and how much of it a balancer must see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plait.data.seeding import key


class Rung(IntEnum):
    """How much a balancer must see; each rung costs more than the one below."""

    LOSSES = 0
    GRAM = 1
    JACOBIAN = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Signals:
    """What one step tells a balancer, for the tasks present in it and no others.

    ``losses`` [t] without graph, ``counts`` [t] labels (the sum of their weights) behind each,
    ``preferences`` [t] of the user, ``gaussian`` [t] marks squared errors. ``gram`` [t, t] holds
    the inner products of the task gradients on the shared parameters, ``jacobian`` [t, P] the
    gradients. Preferences are already in both, and the engine multiplies them into the weights: a
    method need not look at them.

    Only for a balancer that asks: ``validation`` [t] losses on held-out rows, NaN where a task has
    none there; ``layers`` [g, t, t] a Gramian for each layer, which sum to ``gram``; ``samples``
    [k, k, t, t] the products J_a J_bᵀ of the task gradients on k independent parts of the batch, in
    each of which a task's loss is the mean over its labels there (zero rows where it has none).

    ``weights`` [t] is what multiplied each loss in the end, None where the update is no combination
    of task gradients. ``dropped`` tasks were left out because their loss or gradient was not
    finite.
    """

    tasks: tuple[str, ...]
    losses: Tensor
    counts: Tensor
    preferences: Tensor
    gaussian: Tensor
    step: int = 0
    seed: int = 0
    validation: Tensor | None = None
    gram: Tensor | None = None
    layers: Tensor | None = None
    samples: Tensor | None = None
    jacobian: Tensor | None = None
    weights: Tensor | None = None
    dropped: tuple[str, ...] = ()

    @classmethod
    def of(cls, losses: Mapping[str, float], **given: Any) -> Signals:
        """Signals of plain numbers, for trying a balancer out."""
        values = torch.tensor(list(losses.values()), dtype=torch.float64)
        plain = {
            "counts": torch.ones_like(values),
            "preferences": torch.ones_like(values),
            "gaussian": torch.zeros(len(values), dtype=torch.bool),
        }
        return cls(tasks=tuple(losses), losses=values, **{**plain, **given})

    def noise(self, *, pairs: bool = False) -> NDArray[np.float64]:
        """Uniform numbers per task [t], or per ordered pair of tasks [t, t].

        Each depends on the seed, the step and the names only, never on the order of tasks.
        """
        names = np.array([_name_key(name) for name in self.tasks], dtype=np.uint64)
        mixed = _scramble(names ^ np.uint64(key("balancing", self.seed, self.step)))
        if pairs:
            mixed = _scramble(mixed[:, None] ^ names[None, :])
        return np.asarray((mixed >> np.uint64(11)) * 2.0**-53)


@lru_cache(maxsize=65_536)
def _name_key(name: str) -> int:
    return key("task", name)


def _scramble(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of the splitmix64 generator (Steele, Lea and Flood, 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
