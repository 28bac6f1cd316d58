"""Small dense algebra; nothing about tasks. Vectors [n] and Gramians [n, n] are float64 arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

Floats = NDArray[np.float64]


def cosines(gram: Tensor) -> Tensor:
    """The cosines [n, n] of the vectors whose inner products these are; NaN for a zero vector.

    >>> import torch
    >>> cosines(torch.tensor([[4.0, -3.0], [-3.0, 9.0]]))
    tensor([[ 1.0000, -0.5000],
            [-0.5000,  1.0000]])
    """
    lengths = gram.diagonal().clamp(min=0).sqrt()
    return (gram / lengths[:, None] / lengths[None, :]).clamp(-1, 1)


def simplex_projection(v: Floats) -> Floats:
    """The nearest point [n] with entries ≥ 0 that sum to one (Held, Wolfe and Crowder, 1974).

    >>> simplex_projection(np.array([0.75, 0.5, -2.0])).tolist()
    [0.625, 0.375, 0.0]
    """
    falling = np.sort(v)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(v) + 1)
    return np.asarray(np.maximum(v - excess[np.flatnonzero(falling > excess)[-1]], 0.0))


def simplex_minimum(
    slope: Callable[[Floats], Floats],
    free_minimum: Callable[[NDArray[np.intp], Floats], Floats],
    count: int,
    *,
    slack: float,
) -> Floats:
    """Minimise a convex function of weights [n] on the simplex by an active set (Wolfe, 1976).

    ``slope(w)`` [n] is its gradient, ``free_minimum(chosen, w)`` the weights of the chosen ones
    that are better than w or best, their signs free and their sum one. Members whose weight falls
    to nothing leave, the one with the steepest descent joins, until none descends by ``slack``.
    """
    weights, inside = np.full(count, 1 / count), np.ones(count, dtype=np.bool_)
    for _ in range(20 * count + 100):
        chosen = inside.nonzero()[0]
        target = np.zeros(count)
        target[chosen] = free_minimum(chosen, weights)
        out = chosen[target[chosen] <= 1e-14]
        if len(out):
            steps = weights[out] / np.maximum(weights[out] - target[out], 1e-300)
            share = min(float(steps.min()), 1.0)
            weights = np.maximum((1 - share) * weights + share * target, 0.0)
            inside[out[steps <= share]] = False
            weights[~inside] = 0.0
            continue
        moved = float(np.abs(target - weights).max())
        weights = target
        rise = slope(weights)
        level = rise @ weights
        joins = int(rise.argmin())
        if rise[joins] >= level - slack:
            if moved <= 1e-15 or np.abs(rise[chosen] - level).max() <= slack:
                break
        else:
            inside[joins] = True
    return np.asarray(weights / weights.sum())


def min_norm_point(gram: Floats, *, tolerance: float = 1e-12) -> Floats:
    """The weights [n] on the simplex of the shortest convex combination: argmin wᵀGw.

    ``tolerance`` is relative to the longest of the vectors.

    >>> min_norm_point(np.array([[1.0, 0.0], [0.0, 4.0]])).round(3).tolist()
    [0.8, 0.2]
    """
    if len(gram) == 2:
        (one, both), (_, two) = gram.tolist()
        apart = one + two - 2 * both
        first = min(max((two - both) / apart, 0.0), 1.0) if apart > 0 else 0.5
        return np.array([first, 1 - first])
    return simplex_minimum(
        lambda w: gram @ w,
        lambda chosen, _: _affine_minimum(gram[np.ix_(chosen, chosen)]),
        len(gram),
        slack=tolerance * float(gram.diagonal().max(initial=0.0)),
    )


def _affine_minimum(gram: Floats) -> Floats:
    """Argmin wᵀGw with Σw = 1, signs free; the shortest such w where G is singular."""
    count = len(gram)
    scale = gram.diagonal().max()
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = gram / scale if scale > 0 else gram
    system[count, count] = 0.0
    right = np.zeros(count + 1)
    right[count] = 1.0
    try:
        found = np.linalg.solve(system, right)[:count]
        if np.isfinite(found).all() and np.abs(found).max() < 1e8:
            return np.asarray(found, np.float64)
    except np.linalg.LinAlgError:
        pass
    return np.asarray(np.linalg.lstsq(system, right, rcond=None)[0][:count], np.float64)


def cone_weights(gram: Floats, lower: Floats) -> Floats:
    """For every row u of ``lower`` [k, n]: argmin vᵀGv with v ≥ u, [k, n].

    With G = J Jᵀ, Jᵀv is the projection of Jᵀu on the cone of directions that no row of J opposes.
    All rows pivot their active sets together (Kim and Park, 2011); what has not settled, and what
    is too nearly singular, is solved as non-negative least squares.
    """
    scale = np.sqrt(np.maximum(gram.diagonal(), 0.0))
    scale = np.where(scale > 0, scale, 1.0)
    unit = gram / scale[:, None] / scale[None, :]
    start = lower * scale
    slope = start @ unit
    free = slope < 0
    rise = np.zeros_like(start)
    open_rows = np.flatnonzero(free.any(1))
    for _ in range(12):
        if not len(open_rows):
            break
        mask = free[open_rows]
        found = _solved_on(unit, -slope[open_rows], mask)
        if found is None:
            break
        rest = slope[open_rows] + found @ unit
        wrong = np.where(mask, found < 0, rest < -1e-12)
        rise[open_rows] = np.where(mask, found, 0.0)
        free[open_rows] = mask ^ wrong
        open_rows = open_rows[wrong.any(1)]
    if len(open_rows):
        root = _square_root(unit)
        for row in open_rows:
            rise[row] = nnls(root, -root @ start[row], maxiter=100 * len(gram))[0]
    return (start + rise) / scale


def _solved_on(gram: Floats, right: Floats, free: NDArray[np.bool_]) -> Floats | None:
    """Every row's equations on its free entries, zeros elsewhere; None where one is singular.

    Each row's free entries are brought to the front, and only as many solved for as any row has.
    """
    size = int(free.sum(1).max())
    order = np.argsort(~free, axis=1, kind="stable")[:, :size]
    there = np.take_along_axis(free, order, axis=1)
    masked = gram[order[:, :, None], order[:, None, :]]
    masked *= there[:, :, None] & there[:, None, :]
    place = np.arange(size)
    masked[:, place, place] = np.where(there, gram.diagonal()[order], 1.0)
    wanted = np.where(there, np.take_along_axis(right, order, axis=1), 0.0)
    try:
        solved = np.linalg.solve(masked, wanted[..., None])[..., 0]
    except np.linalg.LinAlgError:
        return None
    if not (np.isfinite(solved).all() and np.abs(solved).max(initial=0.0) < 1e6):
        return None
    found = np.zeros(right.shape)
    np.put_along_axis(found, order, solved, axis=1)
    return found


def _square_root(gram: Floats) -> Floats:
    """R [n, n] with RᵀR = G, for a positive semi-definite G."""
    values, vectors = np.linalg.eigh(gram)
    return np.asarray(np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T)


def proportional_fairness(gram: Floats, reward: Floats, power: float) -> Floats:
    """The positive a [n] with (G a)_i = r_i a_i^(−power): damped Newton on a convex function.

    It minimises ½ aᵀGa − Σ r_i a_i^(1−power)/(1−power), with the logarithm at power 1. The diagonal
    of G should be near one. Where some positive combination of the vectors vanishes there is none:
    then it is the solution as if they were all alike, a_i = (r_i/n)^(1/(1 + power)).
    """
    start = (reward / len(gram)) ** (1 / (1 + power))
    a = start
    for _ in range(200):
        pull = reward * a**-power
        gap = gram @ a - pull
        curvature = gram + np.diag(power * pull / a)
        try:
            step = -np.linalg.solve(curvature, gap)
        except np.linalg.LinAlgError:
            return start
        left = float(np.abs(gap / pull).max())
        shrink = float((-step / a).max())
        size = min(1.0, 0.95 / shrink) if shrink > 0 else 1.0
        now, slope = _fair_value(gram, reward, power, a), float(gap @ step)
        while left > 1e-4 and size > 1e-12:  # nearer than that whole steps are safe
            if _fair_value(gram, reward, power, a + size * step) <= now + 1e-4 * size * slope:
                break
            size /= 2
        a = a + size * step
        if left <= 1e-8:  # and this step has squared it
            return a
    return a if left <= 1e-4 else start


def _fair_value(gram: Floats, reward: Floats, power: float, a: Floats) -> float:
    gain = np.log(a) if power == 1 else a ** (1 - power) / (1 - power)
    return float(0.5 * a @ gram @ a - reward @ gain)
