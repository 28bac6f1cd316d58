"""Task weights that a procedure learns: numbers by task name, moved by Adam."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from plait.balancing.base import Signals
from plait.balancing.state import TaskState


class Learnt(TaskState):
    """One number for each task, from 0, and Adam's moments (Kingma and Ba, 2015).

    ``propose`` works out the next value and moves nothing; ``settle`` takes it over.
    """

    memory: ClassVar[Mapping[str, float]] = dict.fromkeys(
        ("value", "adam_steps", "adam_mean", "adam_square"), 0.0
    )

    def __init__(self, tasks: Iterable[str]) -> None:
        super().__init__()
        self._next: dict[str, Tensor] = {}
        self._rows: Tensor | slice = slice(None)
        self.bind(tasks)

    @torch.no_grad()
    def propose(self, s: Signals, gradient: Tensor, rate: float) -> Tensor:
        """The value [t] of the present tasks after a step on their gradient [t]."""
        gradient = gradient.to(self.get_buffer("value"))
        steps = self.recall("adam_steps", s) + 1
        mean = self.recall("adam_mean", s).lerp(gradient, 0.1)
        square = self.recall("adam_square", s).lerp(gradient.square(), 0.001)
        scale = (square / (1 - 0.999**steps)).sqrt() + 1e-8
        value = self.recall("value", s) - rate * mean / (1 - 0.9**steps) / scale
        new = {"value": value, "adam_steps": steps, "adam_mean": mean, "adam_square": square}
        self._next, self._rows = new, self.rows(s)
        return value

    def settle(self) -> None:
        """Take over what was proposed last, if anything was."""
        for name, value in self._next.items():
            getattr(self, name)[self._rows] = value
        self._next = {}
