"""Isotropic merging: the sum of task vectors with all its singular values made equal.

Iso-C, for every matrix,

    Δ = Σ_m δ_m = U Σ Vᵀ,   θ = θ₀ + λ σ̄ U Vᵀ,   σ̄ = mean of the r₀ singular values

with δ_m = θ_m − θ₀ [o, n] and r₀ = min(o, n). Iso-CTS keeps only the top c directions of Δ (about
the share ``common`` of r₀) and gives each task k = (r₀ − c)/M of its own: the top k of the SVD of
(I − U_c U_cᵀ) δ_m. All are put side by side, made orthonormal by polar factors, and get the mean of
all their singular values. Vectors, scalars and tensors of more axes take the mean of the δ_m.
λ is ``scale``, chosen on validation from ``grid`` where it is not given, and 1 without.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.diag([3.0, 0.0])}, "b": {"w": np.diag([0.0, 1.0])}},
...             base={"w": np.zeros((2, 2))})
>>> Iso().merge(pool).tensors["w"] + 0.0
array([[2., 0.],
       [0., 2.]])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pipeline import Free
from plait.merging.pool import Array, Pool
from plait.merging.stage import Combine, Context, Grain
from plait.merging.stages.spectral import above_rounding, polar, svd
from plait.merging.stages.sums import added, weigh
from plait.method import Card, Law, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Isotropic(Combine):
    """σ̄ U Vᵀ of the sum of the models' deltas; ``common`` is the share that all tasks share."""

    grain: ClassVar[Grain] = Grain.TENSOR
    common: float = 1.0

    @property
    def linear(self) -> bool:
        """A common factor scales all singular values."""
        return True

    def __call__(self, deltas: Array, coefficients: Array, ctx: Context) -> Array:  # noqa: ARG002
        """The isotropic sum of matrices, the mean of all else."""
        weigh(deltas, coefficients)
        total = added(deltas)
        if deltas.ndim != 3:
            return np.asarray(total / deltas.dtype.type(len(deltas)))
        u, sigma, vt = svd(total)
        own = round((len(sigma) - int(len(sigma) * self.common)) / len(deltas))
        if own:
            u, sigma, vt = self._with_tasks(deltas, u, sigma, vt, own)
        there = above_rounding(sigma, total.shape)  # null directions are arbitrary
        if not there.any():
            return np.zeros_like(total)
        u, vt = u[:, there], vt[there]
        if own:
            u, vt = polar(u), polar(vt)
        return np.asarray(sigma[there].mean() * (u @ vt))

    @staticmethod
    def _with_tasks(
        deltas: Array, u: Array, sigma: Array, vt: Array, own: int
    ) -> tuple[Array, Array, Array]:
        """Directions and singular values, each task's ``own`` before the common ones."""
        common = len(sigma) - own * len(deltas)
        basis = u[:, :common]
        left, values, right = [], [], []
        for delta in deltas:
            a, s, b = svd(delta - basis @ (basis.T @ delta))
            left.append(a[:, :own])
            values.append(s[:own])
            right.append(b[:own])
        return (
            np.concatenate([*left, basis], axis=1),
            np.concatenate([*values, sigma[:common]]),
            np.concatenate([*right, vt[:common]]),
        )


@dataclass(frozen=True, kw_only=True)
class Iso(Merger):
    """Iso-C (``variant="c"``) or Iso-CTS (``"cts"``, with the share ``common``)."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="iso",
        summary="The sum of the task vectors with a flat spectrum, matrix by matrix.",
        paper=Paper(
            title="No Task Left Behind: Isotropic Model Merging with Common and Task-Specific "
            "Subspaces",
            authors=(
                "Daniel Marczak and Simone Magistri and Sebastian Cygert and Bart{\\l}omiej "
                "Twardowski and Andrew D. Bagdanov and Joost van de Weijer"
            ),
            year=2025,
            venue="International Conference on Machine Learning",
            url="https://arxiv.org/abs/2502.04959",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "where ranks lack (LoRA experts) no arbitrary directions are lifted to the mean",
        ),
        exceptions={
            "one_expert_is_returned": "a flat spectrum is not the expert's own",
            "equal_experts_keep_their_direction": "a flat spectrum is not the experts' own",
        },
    )
    variant: Literal["c", "cts"] = "c"
    common: float = 0.8
    scale: float | None = None
    grid: tuple[float, ...] = tuple(round(0.1 * step, 1) for step in range(1, 31))

    def __post_init__(self) -> None:
        if not 0 < self.common <= 1:
            raise ValueError(f"common is a share above 0 and at most 1, not {self.common:g}")

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Both variants."""
        return ({}, {"variant": "cts", "common": 0.5})

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """One combination of whole tensors."""
        factor = Free(grid=tuple(self.grid), fallback=1.0) if self.scale is None else self.scale
        common = 1.0 if self.variant == "c" else self.common
        return Pipeline(combine=Isotropic(common=common), scale=factor)
