"""Singular values: helpers for stages that work on whole matrices."""

from __future__ import annotations

import numpy as np

from plait.merging.pool import Array


def svd(matrix: Array) -> tuple[Array, Array, Array]:
    """U [o, r], σ [r] and Vᵀ [r, n] of a matrix [o, n], r = min(o, n); in float32 or float64."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return u, s, vt


def above_rounding(sigma: Array, shape: tuple[int, ...]) -> Array:
    """Which singular values [r] of a matrix of that shape are more than rounding: a mask [r]."""
    return np.asarray(sigma > sigma.max(initial=0) * max(shape) * np.finfo(sigma.dtype).eps)


def polar(matrix: Array) -> Array:
    """The nearest matrix [o, k] with orthonormal columns (rows where k > o): P Qᵀ of P D Qᵀ."""
    u, _, vt = svd(matrix)
    return np.asarray(u @ vt)
