"""TSV-Compress: every task keeps, and is served by, its task vector's leading singular triplets.

For every matrix, with k = ⌊r₀/M⌋ (at least 1) and r₀ = min(o, n), task m is served

    θ_m = θ₀ + U_m,:k diag(σ_m,:k) V_m,:kᵀ,   δ_m = θ_m − θ₀ = U_m Σ_m V_mᵀ  [o, n]

so that M tasks together keep about as much as one matrix. Vectors, scalars and tensors of more axes
are kept whole. The model's own tensors, for rows whose task is not known, are those of ``tsv``
with the factor 1.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.diag([3.0, 0.5])}, "b": {"w": np.diag([0.5, 1.0])}},
...             base={"w": np.zeros((2, 2))})
>>> merged = TsvC().merge(pool)
>>> merged.tasks["a"]["w"] + 0.0
array([[3., 0.],
       [0., 0.]])
>>> merged.tasks["b"]["w"] + 0.0
array([[0., 0.],
       [0., 1.]])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stage import Context, Grain, Overlay
from plait.merging.stages.spectral import Orthogonal, each, svd
from plait.method import Card, Law, Need, Paper
from plait.weights.sites import Site


@dataclass(frozen=True, kw_only=True)
class Triplets(Overlay):
    """The leading singular triplets of each of ``models`` matrices; all else whole."""

    grain: ClassVar[Grain] = Grain.TENSOR
    looks_back: ClassVar[bool] = True
    shares: ClassVar[bool] = False
    models: int

    def layout(self, site: Site) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """Two thin matrices in the site's type, U diag(σ) and Vᵀ; the values of all else."""
        if len(site.shape) != 2:
            return {"own": (site.kind, site.shape)}
        kept = each(site.shape, self.models)
        return {
            "left": (site.kind, (site.shape[0], kept)),
            "right": (site.kind, (kept, site.shape[1])),
        }

    def keep(self, delta: Array, ctx: Context) -> dict[str, Array]:  # noqa: ARG002
        """The parts of the models' own deltas."""
        assert ctx.original is not None
        if ctx.original.ndim != 3:
            return {"own": ctx.original}
        kept = each(ctx.site.shape, self.models)
        left, right = [], []
        for own in ctx.original:
            u, sigma, vt = svd(own)
            left.append(u[:, :kept] * sigma[:kept])
            right.append(vt[:kept])
        return {"left": np.stack(left), "right": np.stack(right)}

    def serve(self, delta: Array, kept: Mapping[str, Array]) -> Array:
        """The product of the thin matrices, in the type of the delta."""
        if "own" in kept:
            return kept["own"].astype(delta.dtype)
        return np.asarray(kept["left"].astype(delta.dtype) @ kept["right"].astype(delta.dtype))


@dataclass(frozen=True, kw_only=True)
class TsvC(Merger):
    """Every task served from its own leading singular triplets."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="tsv_c",
        summary="Every task's own leading singular triplets, which together are as large as one.",
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
        needs=frozenset({Need.BASE, Need.TASK_ID}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "a task keeps at least one direction of every matrix",
            "the singular values are kept in the left vectors, in the type of the tensor",
        ),
        exceptions={
            "equal_experts_keep_their_direction": "each model keeps only its share of directions",
        },
    )

    def pipeline(self, pool: Pool) -> Pipeline:
        """The merge of ``tsv``, and every task's triplets beside."""
        return Pipeline(combine=Orthogonal(), overlay=Triplets(models=len(pool)))
