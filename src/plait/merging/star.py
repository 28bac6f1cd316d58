"""STAR: cut the small singular values of every task vector off, and make up for their sum.

For every matrix δ_m = θ_m − θ₀ = U Σ Vᵀ [o, n] with singular values σ_1 ≥ σ_2 ≥ …

    δ̃_m = (Σ_j σ_j / Σ_{j≤r} σ_j) U_:r Σ_r V_:rᵀ,   θ = θ₀ + (1/M) Σ_m δ̃_m

where r is the smallest number of singular values whose sum is at least the share ``keep`` of the
sum of all, so that the nuclear norm stays. Vectors, scalars and tensors of more axes are averaged.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.diag([3.0, 1.0])}, "b": {"w": np.diag([0.0, 2.0])}},
...             base={"w": np.zeros((2, 2))})
>>> Star(keep=0.5).merge(pool).tensors["w"] + 0.0
array([[2., 0.],
       [0., 1.]])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stage import Context, Edit, Grain
from plait.merging.stages.spectral import svd
from plait.merging.stages.sums import Sum
from plait.method import Card, Law, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Truncate(Edit):
    """Keep the largest singular values, the share ``keep`` of their sum, and scale them to all."""

    grain: ClassVar[Grain] = Grain.TENSOR
    keep: float

    def __call__(self, deltas: Array, ctx: Context) -> Array:  # noqa: ARG002
        """Truncate and rescale matrices; leave all else."""
        if deltas.ndim != 3:
            return deltas
        for delta in deltas:
            u, sigma, vt = svd(delta)
            sums = np.cumsum(sigma)
            if not sums[-1] > 0:
                continue
            rank = 1 + int(np.searchsorted(sums, sums.dtype.type(self.keep) * sums[-1]))
            factor = sums[-1] / sums[rank - 1]
            np.matmul(u[:, :rank] * (factor * sigma[:rank]), vt[:rank], out=delta)
        return deltas


@dataclass(frozen=True, kw_only=True)
class Star(Merger):
    """Truncated and rescaled task vectors, averaged; ``keep`` is a share of the nuclear norm."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="star",
        summary="The mean of task vectors cut to their largest singular values and rescaled.",
        paper=Paper(
            title="STAR: Spectral Truncation and Rescale for Model Merging",
            authors=(
                "Yu-Ang Lee and Ching-Yun Ko and Tejaswini Pedapati and I-Hsin Chung and "
                "Mi-Yen Yeh and Pin-Yu Chen"
            ),
            year=2025,
            venue="Annual Conference of the Nations of the Americas Chapter of the ACL",
            url="https://arxiv.org/abs/2502.10339",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "tensors that are no matrices are averaged; the authors merge products of LoRA only",
            "the singular values are exact, where the authors' code can take random projections",
        ),
    )
    keep: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is a share above 0 and at most 1, not {self.keep:g}")

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """A small share and a large one."""
        return ({}, {"keep": 0.9})

    def pipeline(self, pool: Pool) -> Pipeline:
        """Truncate, then average."""
        edits = (Truncate(keep=self.keep),) if self.keep < 1 else ()
        return Pipeline(edits=edits, combine=Sum(over=len(pool)))
