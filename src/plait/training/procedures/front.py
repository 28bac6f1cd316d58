"""The front of an ensemble in weight space: its losses at points between the members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plait.data.seeding import generator
from plait.metrics.fronts import dominated, efficient
from plait.networks.members import Members
from plait.training.procedures.base import Validate


def front_of(members: Members, validate: Validate, count: int) -> dict[str, Any]:
    """The event ``front``: points, their validation losses, and which of them no other beats.

    ``hypervolume`` is the share of the box between zero and the front's worst losses that it
    dominates, None for many tasks and for losses that are not positive.
    """
    points = front_points(members.tasks.names, count)
    before, found = members.point.clone(), []
    for point in points:
        members.point.copy_(torch.from_numpy(point))
        found.append(dict(validate(members)))
    members.point.copy_(before)
    losses = np.array([[each[name] for name in found[0]] for each in found])
    names = members.tasks.names
    return {
        "event": "front",
        "points": [dict(zip(names, point, strict=True)) for point in points.tolist()],
        "losses": [_finite(each) for each in found],
        "efficient": efficient(losses).tolist(),
        "hypervolume": dominated(losses),
    }


def front_points(tasks: Sequence[str], count: int) -> NDArray[np.float64]:
    """Points of the simplex [n, T]: for two tasks even steps between the vertices.

    For more tasks the vertices, the centre, and points drawn evenly until there are ``count``.
    """
    if len(tasks) == 2:
        steps = np.linspace(1, 0, count)
        return np.stack([steps, 1 - steps], 1)
    fixed = [np.eye(len(tasks)), np.full((1, len(tasks)), 1 / len(tasks))]
    more = max(0, count - len(tasks) - 1)
    drawn = generator("pamal", "front").dirichlet(np.ones(len(tasks)), size=more)
    return np.concatenate([*fixed, drawn])


def _finite(losses: dict[str, float]) -> dict[str, float | None]:
    return {name: loss if np.isfinite(loss) else None for name, loss in losses.items()}
