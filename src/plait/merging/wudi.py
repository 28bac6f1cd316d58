"""WUDI: the merged matrix whose differences to the task vectors they cannot see.

For every linear layer, whose task vectors δ_m = θ_m − θ₀ [o, n] span about its inputs,

    minimise over X:   L(X) = Σ_m ‖(X − δ_m) δ_mᵀ‖² / ‖δ_m‖²,   θ = θ₀ + X

by Adam from X = Σ_m δ_m, ``steps`` steps of ``rate``, which moves an entry by a few thousandths at
most. With ``solver="limit"`` it is the minimiser that is nearest to the sum instead,

    X = X₀ − (X₀ G − H) G⁺,   G = Σ_m δ_mᵀδ_m / ‖δ_m‖² [n, n],   H = Σ_m δ_m δ_mᵀδ_m / ‖δ_m‖² [o, n]

All other tensors, and matrices whose names fit ``leave``, stay the base's; with ``others="mean"``
they take the mean of the δ_m.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([[1.0, 0.0]])}, "b": {"w": np.array([[3.0, 1.0]])}},
...             base={"w": np.zeros((1, 2))})
>>> Wudi(solver="limit").merge(pool).tensors["w"].round(6)
array([[1., 7.]])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stage import Combine, Context, Grain
from plait.merging.stages.descent import TABLES, adam, least_squares, linear_layer
from plait.merging.stages.sums import added, weigh
from plait.method import Card, Law, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Unseen(Combine):
    """The merged matrix that interferes least with the models'; see the module's docstring."""

    grain: ClassVar[Grain] = Grain.TENSOR
    solver: Literal["adam", "limit"]
    steps: int
    rate: float
    others: Literal["base", "mean"]
    leave: tuple[str, ...]

    def __call__(self, deltas: Array, coefficients: Array, ctx: Context) -> Array:
        """Optimise linear layers; the base's or the mean elsewhere."""
        weigh(deltas, coefficients)
        total = added(deltas)
        if not linear_layer(deltas, ctx, self.leave):
            share = 0 if self.others == "base" else 1 / len(deltas)
            return np.asarray(total * deltas.dtype.type(share))
        gram = np.zeros((total.shape[1], total.shape[1]), total.dtype)
        slope = np.zeros_like(total)
        for delta in deltas:
            norm = np.vdot(delta, delta)
            if norm > 0:
                own = delta.T @ (delta / norm)
                gram += own
                slope += (total - delta) @ own
        if self.solver == "limit":
            return least_squares(total, gram, slope)
        moved = adam(
            lambda step: 2 * (step @ gram + slope),
            np.zeros_like(total),
            rate=self.rate,
            steps=self.steps,
        )
        return np.asarray(total + moved)


@dataclass(frozen=True, kw_only=True)
class Wudi(Merger):
    """The merged linear layers that interfere least; no factor is left to choose."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="wudi",
        summary="Matrices whose differences to the task vectors lie off the task vectors' rows.",
        paper=Paper(
            title="Whoever Started the Interference Should End It: Guiding Data-Free Model "
            "Merging via Task Vectors",
            authors=("Runxi Cheng and Feng Xiong and Yongxian Wei and Wanyun Zhu and Chun Yuan"),
            year=2025,
            venue="International Conference on Machine Learning",
            url="https://arxiv.org/abs/2503.08099",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "all matrices but embeddings and language heads count; the authors' list names layers",
            "solver=limit is the minimum that the authors' 300 steps do not reach",
        ),
        exceptions={
            "stretching": "a step of Adam has a length of its own",
            "any_size_is_finite": "a step of Adam has a length of its own",
        },
    )
    solver: Literal["adam", "limit"] = "adam"
    steps: int = 300
    rate: float = 1e-5
    others: Literal["base", "mean"] = "base"
    leave: tuple[str, ...] = TABLES

    def __post_init__(self) -> None:
        if self.steps < 0 or self.rate <= 0:
            raise ValueError("wudi needs steps of 0 or more and a rate above 0")

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """The minimum, and nothing left at the base."""
        return {"solver": "limit", "others": "mean"}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Both solvers."""
        return ({}, {"solver": "limit", "others": "mean"})

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """One combination of whole tensors."""
        unseen = Unseen(
            solver=self.solver,
            steps=self.steps,
            rate=self.rate,
            others=self.others,
            leave=tuple(self.leave),
        )
        return Pipeline(combine=unseen)
