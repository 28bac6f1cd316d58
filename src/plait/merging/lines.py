"""LiNeS: scale a merged task vector more the deeper its layer, so that early layers stay general.

    θ = θ₀ + λ_ℓ δ,   λ_ℓ = α + β ℓ/(L − 1),   α = ‖Σ_m δ_m‖₁ / (M ‖δ‖₁)

with δ [*s] the merged task vector of any ``method``, ℓ = 0, …, L − 1 the block of a tensor (the
first number in its name) and λ = α for tensors outside the blocks. The norms are over the whole
model, Σ_m δ_m [*s] being the sum of what the method's edits (TIES's trim) have left; so the first
block is as large as in an average. α is ``start`` where it is given, β is ``rise``.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> names = ["embed", "block.0.w", "block.1.w", "block.2.w"]
>>> pool = Pool({"a": {name: np.array([4.0]) for name in names}},
...             base={name: np.array([0.0]) for name in names})
>>> merged = Lines(start=0.5, rise=0.5).merge(pool).tensors
>>> [float(merged[name][0]) for name in names]
[2.0, 2.0, 3.0, 4.0]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from plait.merging.base import Merger, Pipeline, inner_pipeline
from plait.merging.pipeline import Free
from plait.merging.pool import Array, Pool
from plait.merging.stage import Context, Edit, Finish
from plait.merging.stages.sums import added
from plait.method import Card, Method, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Summed(Edit):
    """The ℓ1 norm of the sum of all deltas, which are left as they are."""

    @property
    def whole(self) -> bool:
        """It is that of the whole model."""
        return True

    def passes(self, working: np.dtype[Any]) -> int:  # noqa: ARG002
        """One."""
        return 1

    def scan(self, values: Array, ctx: Context) -> Array:  # noqa: ARG002
        """The sum of magnitudes [1] in a block."""
        return np.asarray(np.abs(added(values)).sum(dtype=np.float64))[None]

    def __call__(self, deltas: Array, ctx: Context) -> Array:  # noqa: ARG002
        """Leave them."""
        return deltas


@dataclass(frozen=True, kw_only=True)
class Deepening(Finish):
    """α + β ℓ/(L − 1) times the delta; α from the norms unless given."""

    start: float | None
    rise: float

    @property
    def whole(self) -> bool:
        """The norm is that of the whole model."""
        return True

    def passes(self, working: np.dtype[Any]) -> int:  # noqa: ARG002
        """One where the start is found."""
        return 1 if self.start is None else 0

    def scan(self, values: Array, ctx: Context) -> Array:  # noqa: ARG002
        """The sum of magnitudes [1] of the merged delta in a block."""
        return np.asarray(np.abs(values).sum(dtype=np.float64))[None]

    def __call__(self, delta: Array, ctx: Context) -> Array:
        """Scale by the site's depth."""
        factor = self.start
        if factor is None:
            summed, merged = float(ctx.findings[Summed()][0][0]), float(ctx.found[0][0])
            factor = summed / merged / len(ctx.models) if merged else 0.0
        if ctx.site.depth is not None:
            last = ctx.layers - 1
            factor += self.rise * (ctx.site.depth / last if last else 1)
        delta *= delta.dtype.type(factor)
        return delta


@dataclass(frozen=True, kw_only=True)
class Lines(Merger):
    """A method's task vector, scaled from ``start`` in the first block up by ``rise``."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="lines",
        summary="Any merged task vector, scaled linearly with the depth of the layer.",
        paper=Paper(
            title=(
                "LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging"
            ),
            authors=(
                "Ke Wang and Nikolaos Dimitriadis and Alessandro Favero and Guillermo "
                "Ortiz-Jimenez and Fran{\\c{c}}ois Fleuret and Pascal Frossard"
            ),
            year=2025,
            venue="International Conference on Learning Representations",
            url="https://arxiv.org/abs/2410.17146",
        ),
        needs=frozenset({Need.BASE}),
        deviations=(
            "β = 0.5 unless given; the authors choose it on validation",
            "a method's free scale is 1; in a model of one block that block is the last one",
        ),
    )
    parts: ClassVar[Mapping[str, str]] = {"method": "merging"}
    method: Method | str | Mapping[str, Any] = "task_arithmetic"
    start: float | None = None
    rise: float = 0.5

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """The same scale at all depths."""
        return {"start": 1.0, "rise": 0.0}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """On task arithmetic and on TIES."""
        return ({}, {"method": "ties"})

    def pipeline(self, pool: Pool) -> Pipeline:
        """The method's pipeline with the scaling by depth at its end."""
        line = inner_pipeline(self.method, pool, self.card.name)
        return replace(
            line,
            scale=1.0 if isinstance(line.scale, Free) else line.scale,
            edits=line.edits if self.start is not None else (*line.edits, Summed()),
            finish=(*line.finish, Deepening(start=self.start, rise=self.rise)),
        )
