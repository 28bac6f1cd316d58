"""OptMerge: the matrices that interfere least with task vectors freed from their noise.

For every linear layer, with δ_m = θ_m − θ₀ [o, n], trunc_k the best approximation of rank
k = ⌊min(o, n)/M⌋ (at least 1) and L_m = Σ_k V_kᵀ [k, n] the leading right half of δ_m's SVD,

    minimise over X:   Σ_m ‖(X − τ_m) L_mᵀ‖² / ‖δ_m‖²,   θ = θ₀ + λ X

There are two recipes, which are not to be mixed:

- ``full``, for models tuned whole: τ_m = δ̄ + trunc_k(δ_m − δ̄) with δ̄ the mean of the δ_m, by Adam
  from Σ_m δ_m at rate 1e-5; λ = 0.1 without validation rows;
- ``lora``, for models tuned by LoRA: τ_m = trunc_k(δ_m), by gradient descent with momentum 0.9 from
  δ̄ at rate 1e-4; λ = 1 without validation rows.

λ is ``scale``; where it is not given it is chosen on validation from ``grid``. All other tensors,
and matrices whose names fit ``leave``, stay the base's; with ``others="mean"`` they take δ̄.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.diag([3.0, 0.0])}, "b": {"w": np.diag([0.0, 1.0])}},
...             base={"w": np.zeros((2, 2))})
>>> Optmerge(scale=1.0, steps=0).merge(pool).tensors["w"]
array([[3., 0.],
       [0., 1.]])
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
from plait.merging.stages.descent import TABLES, adam, linear_layer, momentum
from plait.merging.stages.spectral import each, svd
from plait.merging.stages.sums import added
from plait.method import Card, Law, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Denoised(Combine):
    """The merged matrix that interferes least with truncated task vectors, times the common λ."""

    grain: ClassVar[Grain] = Grain.TENSOR
    recipe: Literal["full", "lora"]
    steps: int
    others: Literal["base", "mean"]
    leave: tuple[str, ...]

    @property
    def linear(self) -> bool:
        """The coefficients are one common factor, which comes last."""
        return True

    def __call__(self, deltas: Array, coefficients: Array, ctx: Context) -> Array:
        """Optimise linear layers; the base's or the mean elsewhere."""
        total = added(deltas)
        mean = total / deltas.dtype.type(len(deltas))
        if not linear_layer(deltas, ctx, self.leave):
            return np.asarray(mean * (coefficients[0] if self.others == "mean" else 0))
        start = total if self.recipe == "full" else mean
        gram, slope = self._quadratic(deltas, mean, start)
        rule, rate = (adam, 1e-5) if self.recipe == "full" else (momentum, 1e-4)
        moved = rule(
            lambda step: 2 * (step @ gram + slope),
            np.zeros_like(start),
            rate=rate,
            steps=self.steps,
        )
        return np.asarray(coefficients[0] * (start + moved))

    def _quadratic(self, deltas: Array, mean: Array, start: Array) -> tuple[Array, Array]:
        """The Hessian [n, n] of half the objective by rows, and half its gradient [o, n]."""
        kept = each(mean.shape, len(deltas))
        gram = np.zeros((mean.shape[1], mean.shape[1]), mean.dtype)
        slope = np.zeros_like(mean)
        for delta in deltas:
            norm = np.vdot(delta, delta)
            if not norm > 0:
                continue
            u, sigma, vt = svd(delta)
            seen = sigma[:kept, None] * vt[:kept]
            if self.recipe == "full":
                u, sigma, vt = svd(delta - mean)
            target = (u[:, :kept] * sigma[:kept]) @ vt[:kept]
            if self.recipe == "full":
                target += mean
            own = seen.T @ (seen / norm)
            gram += own
            slope += (start - target) @ own
        return gram, slope


@dataclass(frozen=True, kw_only=True)
class Optmerge(Merger):
    """Denoised task vectors merged with least interference; one recipe for each way of tuning."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="optmerge",
        summary="Matrices that interfere least with low-rank approximations of the task vectors.",
        paper=Paper(
            title="OptMerge: Unifying Multimodal LLM Capabilities and Modalities via Model Merging",
            authors=(
                "Yongxian Wei and Runxi Cheng and Weike Jin and Enneng Yang and Li Shen and "
                "Lu Hou and Sinan Du and Chun Yuan and Xiaochun Cao and Dacheng Tao"
            ),
            year=2026,
            venue="International Conference on Learning Representations",
            url="https://arxiv.org/abs/2505.19892",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "at least one direction of a task vector is kept, however many models there are",
            "the LoRA recipe runs in float32, where the authors' code takes the checkpoint's type",
        ),
        exceptions={
            "stretching": "a step of Adam has a length of its own",
            "any_size_is_finite": "a step of Adam has a length of its own",
        },
    )
    recipe: Literal["full", "lora"] = "full"
    scale: float | None = None
    grid: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    steps: int = 300
    others: Literal["base", "mean"] = "base"
    leave: tuple[str, ...] = TABLES

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"optmerge needs 0 steps or more, not {self.steps}")

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """The recipe whose steps have no length of their own, and nothing left at the base."""
        return {"scale": 1.0, "recipe": "lora", "others": "mean"}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Both recipes."""
        return ({}, {"recipe": "lora", "others": "mean"})

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """One combination of whole tensors."""
        usual = 0.1 if self.recipe == "full" else 1.0
        factor = Free(grid=tuple(self.grid), fallback=usual) if self.scale is None else self.scale
        denoised = Denoised(
            recipe=self.recipe, steps=self.steps, others=self.others, leave=tuple(self.leave)
        )
        return Pipeline(combine=denoised, scale=factor)
