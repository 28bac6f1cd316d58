"""Optimising one merged matrix: what the data-free objectives share."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

import numpy as np

from plait.merging.pool import Array
from plait.merging.stage import Context

# Tensors that are no linear layer's though they are matrices, as common checkpoints name them.
TABLES = ("*embed*", "*.wte.*", "*.wpe.*", "wte.*", "wpe.*", "lm_head.*", "*.lm_head.*")


def linear_layer(deltas: Array, ctx: Context, leave: tuple[str, ...]) -> bool:
    """Whether a site [M, *s] is a matrix whose name fits none of the patterns."""
    return deltas.ndim == 3 and not any(fnmatchcase(ctx.site.name, name) for name in leave)


def adam(gradient: Callable[[Array], Array], start: Array, *, rate: float, steps: int) -> Array:
    """Where Adam (β 0.9 and 0.999, ε 1e-8) gets in so many steps from ``start``, which it uses up.

    ``gradient`` may give its array away: it is written into.
    """
    first, second = np.zeros_like(start), np.zeros_like(start)
    real = start.dtype.type
    for step in range(1, steps + 1):
        slope = gradient(start)
        first *= real(0.9)
        first += real(0.1) * slope
        second *= real(0.999)
        second += real(0.001) * np.square(slope, out=slope)
        root = np.sqrt(second / real(1 - 0.999**step))
        root += real(1e-8)
        start -= real(rate / (1 - 0.9**step)) * first / root
    return start


def momentum(gradient: Callable[[Array], Array], start: Array, *, rate: float, steps: int) -> Array:
    """Where gradient descent with momentum 0.9 gets in so many steps from ``start``, used up."""
    pace = np.zeros_like(start)
    for _ in range(steps):
        pace *= start.dtype.type(0.9)
        pace += gradient(start)
        start -= start.dtype.type(rate) * pace
    return start


def least_squares(start: Array, gram: Array, slope: Array) -> Array:
    """The minimiser nearest to ``start`` [o, n] of a quadratic of Hessian G, X → X G by rows.

    ``slope`` is half its gradient at the start [o, n]; directions in the null space of ``gram``
    [n, n] are left as they are at the start.
    """
    values, vectors = np.linalg.eigh(gram)
    there = values > values.max(initial=0) * len(values) * np.finfo(values.dtype).eps
    kept = vectors[:, there]
    return np.asarray(start - (slope @ kept / values[there]) @ kept.T)


def damped(gram: Array, alpha: float) -> Array:
    """A Gram matrix [n, n] in float64, what is off its diagonal multiplied by ``alpha``."""
    wide = alpha * gram.astype(np.float64)
    np.fill_diagonal(wide, np.diagonal(gram))
    return wide


def regressed(weights: Array, grams: Array, alpha: float) -> Array:
    """The weight [o, n] whose outputs are closest to those of M layers on their own inputs.

    ``weights`` are [M, o, n], ``grams`` [M, n, n] those of the inputs, damped by ``alpha``; the
    mean weight where no inputs point.
    """
    start = weights.mean(0, dtype=np.float64)
    total, slope = np.zeros(grams.shape[1:]), np.zeros(start.shape)
    for weight, gram in zip(weights, grams, strict=True):
        wide = damped(gram, alpha)
        total += wide
        slope += (start - weight) @ wide
    return least_squares(start, total, slope).astype(weights.dtype)
