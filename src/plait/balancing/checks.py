"""What methods check of what they are given: losses of the right sign, settings for each task."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from plait.balancing.signals import Signals

FLOOR = 1e-8  # a loss below it is taken for it, where its logarithm or its inverse is needed


def not_negative(method: str, does: str, s: Signals, losses: Tensor) -> Tensor:
    """The losses [t] in float64. Raises ``ValueError`` naming the task whose loss is negative.

    ``does`` is what the method does with them: ``"takes logarithms of"``, ``"divides by"``.
    """
    values = losses.double()
    if (values < 0).any():
        place = int(values.argmin())
        raise ValueError(
            f"{method} {does} the losses, and that of task {s.tasks[place]!r} is negative "
            f"({float(values[place]):.3g}); give that task a loss that is never below zero, or "
            "use another balancing"
        )
    return values


def by_task(setting: str, given: float | Mapping[str, float], s: Signals) -> Tensor:
    """A setting for each task present [t], float64, from one number or from numbers by task name.

    Raises ``ValueError`` naming the tasks that a mapping lacks.
    """
    if isinstance(given, Mapping):
        lacking = [name for name in s.tasks if name not in given]
        if lacking:
            raise ValueError(f"{setting} is given by task, and lacks {', '.join(lacking)}")
        values = [float(given[name]) for name in s.tasks]
    else:
        values = [float(given)] * len(s.tasks)
    return torch.tensor(values, dtype=torch.float64, device=s.losses.device)


def every(given: float | Mapping[str, float]) -> list[float]:
    """The numbers of such a setting, for checking their range."""
    return [float(v) for v in given.values()] if isinstance(given, Mapping) else [float(given)]
