"""LoRE-Merging: an implicit base and low-rank task vectors, found together from the models alone.

For every matrix θ_m [o, n] it lowers, in ``sweeps`` turns from d_m = 0,

    Σ_m (½ ‖B + d_m − θ_m‖² + μ ‖d_m‖_*):   B ← mean_m(θ_m − d_m),   d_m ← SVT_μ(θ_m − B)

with SVT_μ(U Σ Vᵀ) = U (Σ − μ)₊ Vᵀ, and merges to θ = B + λ Σ_m d_m. Vectors, scalars and tensors
of more axes are averaged. λ is ``scale``, chosen on validation from ``grid`` where it is not given,
and 1 without. μ is absolute: it is to be compared with the singular values of the task vectors.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> models = {name: {"w": np.diag([size, 1.0])} for name, size in zip("abc", (5.0, 1.0, 0.0))}
>>> Lore(mu=1.5, sweeps=1).merge(Pool(models)).tensors["w"]
array([[3., 0.],
       [0., 1.]])
>>> Lore(mu=1.5, sweeps=1, scale=0.0).merge(Pool(models)).tensors["w"]
array([[2., 0.],
       [0., 1.]])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pipeline import Free
from plait.merging.pool import Array, Pool
from plait.merging.stage import Combine, Context, Grain
from plait.merging.stages.spectral import svd
from plait.merging.stages.sums import added
from plait.method import Card, Law, Paper


@dataclass(frozen=True, kw_only=True)
class LowRank(Combine):
    """The implicit base and λ times the sum of the low-rank parts, of the models' own tensors."""

    grain: ClassVar[Grain] = Grain.TENSOR
    mu: float
    sweeps: int

    def __call__(self, deltas: Array, coefficients: Array, ctx: Context) -> Array:  # noqa: ARG002
        """Estimate matrices; average all else."""
        count = deltas.dtype.type(len(deltas))
        if deltas.ndim != 3:
            return np.asarray(added(deltas) / count)
        base = np.zeros_like(deltas[0])
        own = np.zeros_like(deltas)
        for _ in range(self.sweeps):
            base = added(deltas - own) / count
            for place, value in zip(own, deltas, strict=True):
                u, sigma, vt = svd(value - base)
                np.matmul(u * np.maximum(sigma - sigma.dtype.type(self.mu), 0), vt, out=place)
        return np.asarray(base + coefficients[0] * added(own))


@dataclass(frozen=True, kw_only=True)
class Lore(Merger):
    """Low-rank task vectors on a base that need not be given."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="lore",
        summary="Low-rank task vectors, estimated together with the base they start from.",
        paper=Paper(
            title="LoRE-Merging: Exploring Low-Rank Estimation For Large Language Model Merging",
            authors=(
                "Zehua Liu and Han Wu and Yuxuan Yao and Xiaojin Fu and Ruifeng She and "
                "Xiongwei Han and Tao Zhong and Mingxuan Yuan"
            ),
            year=2025,
            venue="Findings of the Association for Computational Linguistics: EMNLP",
            url="https://arxiv.org/abs/2502.10749",
        ),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "solves for the nuclear norm, as the paper's update does; its objective squares it",
            "adds the parts up: their mean with λ = 1 is the plain mean of the models at the end",
            "μ, the sweeps and λ are a reimplementation's; the authors' code is not public",
        ),
        exceptions={
            "stretching": "mu is an absolute size",
            "any_size_is_finite": "mu is an absolute size",
        },
    )
    mu: float = 0.01
    sweeps: int = 20
    scale: float | None = None
    grid: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

    def __post_init__(self) -> None:
        if self.mu < 0 or self.sweeps < 1:
            raise ValueError("lore needs mu of 0 or more and at least one sweep")

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """A threshold that leaves most and one that cuts."""
        return ({}, {"mu": 0.3, "scale": 0.5})

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """One combination of whole tensors, without a base."""
        factor = Free(grid=tuple(self.grid), fallback=1.0) if self.scale is None else self.scale
        low_rank = LowRank(mu=self.mu, sweeps=self.sweeps)
        return Pipeline(combine=low_rank, scale=factor, against_base=False)
