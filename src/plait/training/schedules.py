"""The learning rate over a training, as a factor of the optimizer's own."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant(steps: int, warmup: float = 0.0) -> Schedule:
    """A linear rise over the share ``warmup`` of the steps, then 1."""
    rise = round(steps * warmup)
    return lambda step: min(1.0, (step + 1) / (rise + 1))


def cosine(steps: int, warmup: float = 0.0) -> Schedule:
    """A linear rise over the share ``warmup`` of the steps, then half a cosine down to 0.

    >>> [round(cosine(4)(step), 3) for step in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    rise = round(steps * warmup)
    before = constant(steps, warmup)

    def factor(step: int) -> float:
        if step < rise:
            return before(step)
        return (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2

    return factor


SCHEDULES: dict[str, Callable[[int, float], Schedule]] = {"cosine": cosine, "constant": constant}
