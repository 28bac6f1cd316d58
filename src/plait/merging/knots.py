"""KnOTS: task vectors in one orthonormal basis of a layer's outputs, merged there.

For every matrix, with δ_m = θ_m − θ₀ [o, n] and U [o, r] the left singular vectors of

    [δ_1 … δ_M] = U Σ Vᵀ  [o, M n],   P_m = Uᵀ δ_m  [r, n],   θ = θ₀ + λ U merge(P_1, …, P_M)

where merge trims each model's P over the whole model to the share ``keep`` of its largest entries,
elects a sign for every entry and averages what agrees, as TIES does; with ``drop`` above 0 entries
of P are first dropped at random and the others enlarged, as DARE does. LoRA task vectors, which lie
in subspaces of their own, agree better there. Other tensors are merged as they are. λ is ``scale``,
chosen on validation from ``grid`` where it is not given, and 0.6 without.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.diag([4.0, 0.0])}, "b": {"w": np.diag([2.0, 1.0])}},
...             base={"w": np.zeros((2, 2))})
>>> Knots(keep=1.0, scale=1.0).merge(pool).tensors["w"].round(6) + 0.0
array([[3., 0.],
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
from plait.merging.stage import Context, Edit, Finish, Grain
from plait.merging.stages.cuts import Trim
from plait.merging.stages.drops import Drop
from plait.merging.stages.signs import Agreeing
from plait.method import Card, Law, Need, Paper


def output_basis(deltas: Array) -> Array:
    """An orthonormal basis [o, r] of what the matrices [M, o, n] reach together, r as it is.

    What is no more than the rounding of their type is not reached.
    """
    side = np.concatenate(deltas.astype(np.float64), axis=1)
    if side.shape[1] > side.shape[0]:  # the right half is not needed
        side = np.asarray(np.linalg.qr(side.T, mode="r")).T
    u, sigma, _ = np.linalg.svd(side, full_matrices=False)
    noise = sigma.max(initial=0) * max(deltas.shape[1:]) * np.finfo(deltas.dtype).eps
    return np.asarray(u[:, sigma > noise].astype(deltas.dtype))


@dataclass(frozen=True, kw_only=True)
class Aligned(Edit):
    """P_m of matrices in the first r rows, zeros in the others."""

    grain: ClassVar[Grain] = Grain.TENSOR

    def __call__(self, deltas: Array, ctx: Context) -> Array:  # noqa: ARG002
        """Rotate matrices; leave all else."""
        if deltas.ndim == 3:
            basis = output_basis(deltas)
            for delta in deltas:
                delta[: basis.shape[1]] = basis.T @ delta
                delta[basis.shape[1] :] = 0
        return deltas


@dataclass(frozen=True, kw_only=True)
class TrimReached(Trim):
    """A trim that counts the entries at which any model differs from zero."""

    def scan(self, values: Array, ctx: Context) -> Array:
        """The counts of those entries."""
        reached = (values != 0).any(0)
        return super().scan(np.ascontiguousarray(values[:, reached]), ctx)


@dataclass(frozen=True, kw_only=True)
class Returned(Finish):
    """The merged matrix out of the basis that the models' deltas give."""

    grain: ClassVar[Grain] = Grain.TENSOR
    looks_back: ClassVar[bool] = True

    def __call__(self, delta: Array, ctx: Context) -> Array:
        """U times the first r rows."""
        assert ctx.original is not None
        if delta.ndim != 2:
            return delta
        basis = output_basis(ctx.original)
        return np.asarray(basis @ delta[: basis.shape[1]])


@dataclass(frozen=True, kw_only=True)
class Knots(Merger):
    """KnOTS-TIES, and KnOTS-DARE-TIES with ``drop`` above 0."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="knots",
        summary="Task vectors rotated into one shared basis, then merged as TIES does.",
        paper=Paper(
            title="Model Merging with SVD to Tie the Knots",
            authors=(
                "George Stoica and Pratik Ramesh and Boglarka Ecsedi and Leshem Choshen and "
                "Judy Hoffman"
            ),
            year=2025,
            venue="International Conference on Learning Representations",
            url="https://arxiv.org/abs/2410.19735",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "directions are dropped at the rounding of their type, not at a size of 1e-5",
            "biases and norms are merged as they are; the authors' code makes columns of them",
        ),
    )
    keep: float = 0.2
    drop: float = 0.0
    seed: int = 0
    scale: float | None = None
    grid: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is a share above 0 and at most 1, not {self.keep:g}")
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop is a share from 0 to below 1, not {self.drop:g}")

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """With and without dropping at random."""
        return ({}, {"keep": 1.0, "drop": 0.1})

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """Into the basis, merged, and out of it."""
        factor = Free(grid=tuple(self.grid), fallback=0.6) if self.scale is None else self.scale
        drop = (Drop(drop=self.drop, seed=self.seed),) if self.drop else ()
        trim = (TrimReached(keep=self.keep),) if self.keep < 1 else ()
        return Pipeline(
            edits=(Aligned(), *drop, *trim),
            combine=Agreeing(over="count"),
            scale=factor,
            finish=(Returned(),),
        )
