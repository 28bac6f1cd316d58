"""The task gradients are turned and stretched until they are orthogonal and equally long.

With G = V diag(λ) Vᵀ [t, t], of which the r eigenvalues above a cut-off are kept, the nearest
Jacobian whose Gramian is σ²·1 gives the weights α = σ V diag(λ^(−½)) Vᵀ 1, where σ² is the smallest
kept λ (``scale="min"``), their median or their mean (``"rmse"``). The condition number of the
aligned system is one.

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> gram = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    >>> AlignedMTL()(Signals.of({"click": 0.3, "stars": 2.0}, gram=gram))
    tensor([0.5000, 1.0000], dtype=torch.float64)
"""

from __future__ import annotations

from typing import Literal, final

import numpy as np

from plait.balancing.gramian import OnGramian
from plait.linalg import Floats
from plait.method import Card, Law, Need, Paper


@final
class AlignedMTL(OnGramian):
    """Independent component alignment; ``scale`` is min (paper), median or rmse."""

    card = Card(
        family="balancing",
        name="aligned_mtl",
        summary="Aligns the principal components of the task gradients.",
        paper=Paper(
            title="Independent Component Alignment for Multi-Task Learning",
            authors="Senushkin, Dmitry and Patakin, Nikolay and Kuznetsov, Arseny and "
            "Konushin, Anton",
            year=2023,
            venue="CVPR",
            url="https://arxiv.org/abs/2305.19000",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
        deviations=(
            "Eigenvalues below t·eps of float32 times the largest are cut off in any precision.",
        ),
    )

    def __init__(self, *, scale: Literal["min", "median", "rmse"] = "min") -> None:
        if scale not in ("min", "median", "rmse"):
            raise ValueError(f"scale must be 'min', 'median' or 'rmse', got {scale!r}")
        super().__init__()
        self.scale = scale

    def weigh(self, gram: Floats) -> Floats:
        """α = σ V λ^(−½) Vᵀ 1, [t]."""
        values, vectors = np.linalg.eigh(gram)
        kept = values > values[-1] * len(gram) * np.finfo(np.float32).eps
        values, vectors = values[kept], vectors[:, kept]
        common = {"min": values[0], "median": values[(len(values) - 1) // 2], "rmse": values.mean()}
        along = vectors.sum(0) * np.sqrt(common[self.scale] / values)
        return np.asarray(vectors @ along)
