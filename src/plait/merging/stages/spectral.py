"""Singular values: helpers for stages that work on whole matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from plait.merging.pool import Array
from plait.merging.stage import Combine, Context, Grain
from plait.merging.stages.sums import added, weigh


def svd(matrix: Array) -> tuple[Array, Array, Array]:
    """U [o, r], σ [r] and Vᵀ [r, n] of a matrix [o, n], r = min(o, n); in float32 or float64."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return u, s, vt


def above_rounding(sigma: Array, shape: tuple[int, ...]) -> Array:
    """Which singular values [r] of a matrix of that shape are more than rounding: a mask [r]."""
    return np.asarray(sigma > sigma.max(initial=0) * max(shape) * np.finfo(sigma.dtype).eps)


def polar(matrix: Array) -> Array:
    """The nearest matrix [o, k] with orthonormal columns (rows where k > o): P Qᵀ of P D Qᵀ.

    Where columns depend on one another it is not unique; this one has the rank of the matrix.
    """
    u, sigma, vt = svd(matrix)
    there = above_rounding(sigma, matrix.shape)
    return np.asarray(u[:, there] @ vt[there])


def each(shape: tuple[int, ...], models: int) -> int:
    """How many singular directions of a matrix of that shape each of so many models keeps."""
    return max(min(shape) // models, 1)


@dataclass(frozen=True, kw_only=True)
class Orthogonal(Combine):
    """Ũ diag(σ) Ṽᵀ of the models' leading singular triplets; the mean of what is no matrix."""

    grain: ClassVar[Grain] = Grain.TENSOR

    @property
    def linear(self) -> bool:
        """A common factor scales all singular values."""
        return True

    def __call__(self, deltas: Array, coefficients: Array, ctx: Context) -> Array:  # noqa: ARG002
        """Put the triplets side by side and make the vectors orthonormal."""
        weigh(deltas, coefficients)
        if deltas.ndim != 3:
            return np.asarray(added(deltas) / deltas.dtype.type(len(deltas)))
        kept = each(deltas.shape[1:], len(deltas))
        left, values, right = [], [], []
        for delta in deltas:
            u, sigma, vt = svd(delta)
            left.append(u[:, :kept])
            values.append(sigma[:kept])
            right.append(vt[:kept])
        u, vt = polar(np.concatenate(left, axis=1)), polar(np.concatenate(right))
        return np.asarray((u * np.concatenate(values)) @ vt)
