"""CABS: prune one task vector after another, evenly and only where none before it has kept.

    δ̃_m = mask_m ⊙ δ_m,   θ = θ₀ + λ Σ_m δ̃_m

with δ_m = θ_m − θ₀ [*s]: in every run of m consecutive entries of a tensor, mask_m keeps the n
largest magnitudes among those that no earlier model keeps. So the masks do not overlap, and the
order of the models matters: the first has its choice. λ is ``scale``; where it is not given it is
the value of ``grid`` with the lowest validation loss, and 1.2 without validation rows.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([4.0, 1.0, 0.0, 2.0])},
...              "b": {"w": np.array([3.0, 1.0, 2.0, 9.0])}}, base={"w": np.zeros(4)})
>>> Cabs(n=1, m=2, scale=1.0).merge(pool).tensors["w"]
array([4., 1., 2., 2.])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pipeline import Free
from plait.merging.pool import Array, Pool
from plait.merging.stage import Context, Edit, Grain
from plait.merging.stages.sums import Sum
from plait.method import Card, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Disjoint(Edit):
    """The n largest of every run of m entries that no earlier model has kept."""

    grain: ClassVar[Grain] = Grain.TENSOR
    n: int
    m: int

    def __call__(self, deltas: Array, ctx: Context) -> Array:  # noqa: ARG002
        """Zero the rest; of a last run that is shorter, as large a share is kept."""
        flat = deltas.reshape(len(deltas), -1)
        whole = flat.shape[1] // self.m * self.m
        rest = flat.shape[1] - whole
        self._prune(flat[:, :whole].reshape(len(flat), -1, self.m), self.n)
        self._prune(flat[:, None, whole:], -(-self.n * rest // self.m))
        return deltas

    def _prune(self, runs: Array, count: int) -> None:
        """Keep ``count`` of every run [M, runs, m], in place."""
        if not runs.size:
            return
        first = runs.shape[-1] - count
        taken = np.zeros(runs.shape[1:], bool)
        for model in runs:
            size = np.where(taken, 0, np.abs(model))
            best = np.argpartition(size, first, axis=-1)[:, first:]
            kept = np.zeros_like(taken)
            np.put_along_axis(kept, best, True, axis=-1)
            kept &= size > 0
            model *= kept
            taken |= kept


@dataclass(frozen=True, kw_only=True)
class Cabs(Merger):
    """n:m pruning without overlap; ``n`` is m/4 unless given, less with more than four models."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="cabs",
        summary="The sum of task vectors pruned evenly, each where no earlier one has kept.",
        paper=Paper(
            title=("CABS: Conflict-Aware and Balanced Sparsification for Enhancing Model Merging"),
            authors=(
                "Zongzhen Yang and Binhang Qi and Hailong Sun and Wenrui Long and Ruobing Zhao and "
                "Xiang Gao"
            ),
            year=2025,
            venue="International Conference on Machine Learning",
            url="https://arxiv.org/abs/2503.01874",
        ),
        needs=frozenset({Need.BASE}),
        deviations=(
            "any number of models; the authors' code has two",
            "masks that must overlap are refused; the authors' code takes some places twice",
            "of a shorter last run as large a share is kept, one entry at least",
            "one λ for all models; the authors have one for each",
        ),
        exceptions={
            "equal_experts_keep_their_direction": "no two models keep the same entry",
        },
    )
    n: int | None = None
    m: int = 256
    scale: float | None = None
    grid: tuple[float, ...] = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)

    def __post_init__(self) -> None:
        if not 1 <= (1 if self.n is None else self.n) <= self.m:
            raise ValueError(f"n:m keeps 1 to m entries of every m, not {self.n}:{self.m}")

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """All kept."""
        return {"n": 256, "scale": 1.0}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """The authors' runs, and short ones."""
        return ({}, {"n": 1, "m": 4})

    def pipeline(self, pool: Pool) -> Pipeline:
        """The pruning, then the sum, its factor given or free."""
        n = max(self.m // max(4, len(pool)), 1) if self.n is None else self.n
        if n * len(pool) > self.m:
            raise ValueError(
                f"{len(pool)} models cannot keep {n} entries of every {self.m} without overlap; "
                f"give an n of at most {self.m // len(pool)}, or a larger m"
            )
        factor = Free(grid=tuple(self.grid), fallback=1.2) if self.scale is None else self.scale
        return Pipeline(edits=(Disjoint(n=n, m=self.m),), combine=Sum(), scale=factor)
