"""LwPTV: leave whole layers out of task vectors, by a score of each layer for each model.

    δ̃_m = c_{m,ℓ} δ_m,   c_{m,ℓ} = 1 for the ⌈keep · L⌉ layers ℓ of model m with the highest scores

and 0 for the others, at which the model counts as the base; then any ``method`` merges the δ̃_m.
δ_m = θ_m − θ₀ [*s], and ℓ = 0, …, L − 1 is the block of a tensor (the first number in its name);
tensors outside the blocks stay. ``scores`` has L numbers for each model by name, the larger the
more its layer is worth keeping: how the paper scores a layer is not public, so the scores are
yours, and without them no layer is left out.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"h.0.w": np.ones(2), "h.1.w": np.ones(2)}},
...             base={"h.0.w": np.zeros(2), "h.1.w": np.zeros(2)})
>>> method = {"task_arithmetic": {"scale": 1.0}}
>>> merged = Lwptv(method=method, scores={"a": (0.2, 0.9)}, keep=0.5).merge(pool).tensors
>>> merged["h.0.w"], merged["h.1.w"]
(array([0., 0.]), array([1., 1.]))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, ClassVar

import numpy as np

from plait.merging.base import Merger, Pipeline, inner_pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stage import Context, Edit
from plait.method import Card, Method, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Layers(Edit):
    """Zero deltas at the layers that their models do not keep."""

    kept: tuple[tuple[int, ...], ...]

    def __call__(self, deltas: Array, ctx: Context) -> Array:
        """Zero whole tensors."""
        if ctx.site.depth is not None:
            for row, kept in zip(deltas, self.kept, strict=True):
                if ctx.site.depth not in kept:
                    row[...] = 0
        return deltas


@dataclass(frozen=True, kw_only=True)
class Lwptv(Merger):
    """Prune layers by ``scores`` to the share ``keep``, then merge by ``method``."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="lwptv",
        summary="Task vectors without their lowest-scored layers, then merged.",
        paper=Paper(
            title="Merging Smarter, Generalizing Better: Enhancing Model Merging on OOD Data",
            authors=(
                "Bingjie Zhang and Hongkang Li and Changlong Shi and Guowei Rong and He Zhao and "
                "Dongsheng Wang and Dandan Guo and Meng Wang"
            ),
            year=2025,
            venue="arXiv",
            url="https://arxiv.org/abs/2506.09093",
        ),
        needs=frozenset({Need.BASE}),
        deviations=(
            "the paper's saliency and threshold were not available: the user gives the scores",
            "without scores no layer is left out",
        ),
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"scores": "every"}
    parts: ClassVar[Mapping[str, str]] = {"method": "merging"}
    method: Method | str | Mapping[str, Any] = "task_arithmetic"
    scores: Mapping[str, Sequence[float]] | None = None
    keep: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep is a share from 0 to 1, not {self.keep:g}")

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """Nothing left out, and nothing scaled by the method."""
        return {"method": {"task_arithmetic": {"scale": 1.0}}}

    def pipeline(self, pool: Pool) -> Pipeline:
        """The method's pipeline with the layers left out before its edits."""
        line = inner_pipeline(self.method, pool, self.card.name)
        if self.scores is None:
            return line
        return replace(line, edits=(Layers(kept=self._kept(pool)), *line.edits))

    def _kept(self, pool: Pool) -> tuple[tuple[int, ...], ...]:
        """The layers each model keeps."""
        scores = self.scores or {}
        strange = sorted(set(scores) ^ set(pool.names))
        if strange:
            raise ValueError(f"scores and models differ in: {', '.join(strange)}")
        for name, row in scores.items():
            if len(row) != pool.layers:
                raise ValueError(
                    f"the models have {pool.layers} layers, and {name!r} has {len(row)} scores"
                )
        count = ceil(self.keep * pool.layers)
        best = {name: np.argsort(-np.asarray(scores[name]), kind="stable") for name in pool.names}
        return tuple(tuple(best[name][:count].tolist()) for name in pool.names)
