"""Combining models by weights that follow from the inner products between them.

Angles, norms and means on a sphere are all functions of the Gram matrix [M, M]: whatever they give
lies in the span of the models, so one pass over the data and a little algebra are enough.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.pool import Array
from plait.merging.stage import Combine, Context, Grain
from plait.merging.stages.sums import added


@dataclass(frozen=True, kw_only=True)
class Spanned(Combine):
    """Σ_m w_m δ_m with weights from the Gram matrix of the deltas, by whole tensor or by row.

    A subclass gives :meth:`weights`. A vector is one row.
    """

    grain: ClassVar[Grain] = Grain.ROW
    per: Literal["tensor", "row"] = "tensor"

    @abstractmethod
    def weights(self, gram: Array, coefficients: Array) -> Array:
        """Weights [..., M] from inner products [..., M, M] and coefficients [M], in float64."""

    def passes(self, working: np.dtype[Any]) -> int:  # noqa: ARG002
        """One where the matrix is that of a whole tensor."""
        return 1 if self.per == "tensor" else 0

    def scan(self, values: Array, ctx: Context) -> Array:  # noqa: ARG002
        """The inner products [M, M] of a block."""
        flat = values.reshape(len(values), -1).astype(np.float64)
        return np.asarray(flat @ flat.T)

    def __call__(self, deltas: Array, coefficients: Array, ctx: Context) -> Array:
        """The weighted sum."""
        if self.per == "tensor":
            gram = ctx.found[0][None]
        else:
            wide = deltas.astype(np.float64).swapaxes(0, 1)
            gram = wide @ wide.swapaxes(1, 2)
        weights = self.weights(gram, coefficients.astype(np.float64))  # [rows, M]
        deltas *= weights.T[..., None].astype(deltas.dtype)
        return added(deltas, into=deltas[0])


def norms(gram: Array) -> Array:
    """The norms [..., M] of vectors from their inner products [..., M, M]."""
    return np.asarray(np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1)))


def cosines(gram: Array) -> Array:
    """The cosines [..., M, M] of the angles between vectors; 0 with a vector that is zero."""
    length = norms(gram)
    product = length[..., :, None] * length[..., None, :]
    found = np.divide(gram, product, out=np.zeros_like(gram), where=product > 0)
    return np.asarray(np.clip(found, -1, 1))


def turned(cosine: Array, share: float, linear: Array) -> Array:
    """Weights [..., 2] of two vectors on the arc between them, ``share`` of the way to the second.

    ``cosine`` [...] is that of their angle; where ``linear`` [...] they lie on the line instead.
    """
    angle = np.arccos(cosine)
    parts = np.array([1 - share, share])
    sine = np.where(linear, 1, np.sin(angle))[..., None]
    return np.where(linear[..., None], parts, np.sin(parts * angle[..., None]) / sine)
