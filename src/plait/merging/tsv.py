"""TSV-Merge: the leading singular directions of every task vector, made orthogonal to one another.

For every matrix, with k = ⌊r₀/M⌋ and r₀ = min(o, n),

    U = [U_1,:k … U_M,:k],   V = [V_1,:k … V_M,:k],   σ = [σ_1,:k … σ_M,:k],   δ_m = U_m Σ_m V_mᵀ
    θ = θ₀ + λ Ũ diag(σ) Ṽᵀ

with δ_m = θ_m − θ₀ [o, n] and Ũ [o, kM], Ṽ [n, kM] the nearest matrices to U and V with orthonormal
columns (their polar factors). What the singular vectors of different tasks have in common, which is
where tasks interfere, is so taken apart. Vectors, scalars and tensors of more axes take the mean of
the δ_m. λ is ``scale``, chosen on validation from ``grid`` where it is not given, and 1 without.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.diag([3.0, 0.5])}, "b": {"w": np.diag([0.0, 1.0])}},
...             base={"w": np.zeros((2, 2))})
>>> Tsv().merge(pool).tensors["w"] + 0.0
array([[3., 0.],
       [0., 1.]])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from plait.merging.base import Merger, Pipeline
from plait.merging.pipeline import Free
from plait.merging.pool import Pool
from plait.merging.stages.spectral import Orthogonal
from plait.method import Card, Law, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Tsv(Merger):
    """TSV-Merge; its compression, which serves every task apart, is ``tsv_c``."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="tsv",
        summary="The leading singular directions of all task vectors, made orthogonal.",
        paper=Paper(
            title="Task Singular Vectors: Reducing Task Interference in Model Merging",
            authors=(
                "Antonio Andrea Gargiulo and Donato Crisostomi and Maria Sofia Bucarelli and "
                "Simone Scardapane and Fabrizio Silvestri and Emanuele Rodol{\\`a}"
            ),
            year=2025,
            venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition",
            url="https://arxiv.org/abs/2412.00081",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "singular vectors that depend on one another get the polar factor of lowest rank",
            "a model keeps at least one direction, the authors' code none where models are many",
            "CLIP's text_projection is a matrix like others; the authors' code averages it",
        ),
        exceptions={
            "equal_experts_keep_their_direction": "each model keeps only its share of directions",
        },
    )
    scale: float | None = None
    grid: tuple[float, ...] = tuple(round(0.1 * step, 1) for step in range(1, 31))

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """One combination of whole tensors."""
        factor = Free(grid=tuple(self.grid), fallback=1.0) if self.scale is None else self.scale
        return Pipeline(combine=Orthogonal(), scale=factor)
