"""Fronts of several losses: which points no other beats, and how much of the space they dominate.

>>> front = np.array([[0.2, 0.8], [0.5, 0.5], [0.6, 0.9]])
>>> efficient(front).tolist()
[True, True, False]
>>> round(hypervolume(front, np.ones(2)), 6)
0.31
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
AXES = 6  # up to which the volume under a front is worked out


def efficient(points: Floats) -> NDArray[np.bool_]:
    """Which of the points [n, m] no other point is at least as good as in all and better in one.

    Lower is better. Of equal points all count.
    """
    worse = np.all(points[:, None, :] >= points[None, :, :], axis=2)
    strictly = np.any(points[:, None, :] > points[None, :, :], axis=2)
    found: NDArray[np.bool_] = ~np.any(worse & strictly, axis=1)
    return found


def hypervolume(points: Floats, reference: Floats) -> float:
    """The volume between points [n, m] and a reference [m] that they beat; lower is better.

    Exact, by slices along one axis after another (Zitzler, 1999): for few points and axes.
    """
    inside = points[(points < reference).all(1)]
    if not len(inside):
        return 0.0
    inside = inside[efficient(inside)]
    if inside.shape[1] == 1:
        return float(reference[0] - inside.min())
    inside = inside[np.argsort(inside[:, -1], kind="stable")]
    edges = np.append(inside[:, -1], reference[-1])
    heights = np.diff(edges)
    slices = (
        height * hypervolume(inside[: place + 1, :-1], reference[:-1])
        for place, height in enumerate(heights)
        if height > 0
    )
    return float(sum(slices))


def dominated(losses: Floats) -> float | None:
    """The share of the box between zero and the worst losses [m] that points [n, m] dominate.

    None for more than six axes, and for losses that are not positive numbers.
    """
    if losses.shape[1] > AXES or not (np.isfinite(losses).all() and (losses > 0).all()):
        return None
    return hypervolume(losses / losses.max(0), np.ones(losses.shape[1]))
