"""Hi-Merging, its model-wise stage: one share and one weight for all task vectors, searched.

    δ̃_m = s · δ_m ⊙ 1[|δ_m| ≥ t_m(p)],   θ = θ₀ + Σ_m a_m δ̃_m,   a_m = 1[sgn δ̃_m = sgn Σ_j δ̃_j]

with δ_m = θ_m − θ₀ [*s] and t_m the magnitude above which the share p of model m's entries of the
tensor lies. p is ``keep`` and s ``scale``; what is not given is searched on validation among
``shares`` and ``grid``, every pair, and is 0.2 and 0.5 without. The stage that follows in the
paper, which prunes, scales or drops the layers where models conflict, is not built: what it does at
which conflict is not public.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([4.0, 0.1])}, "b": {"w": np.array([2.0, -5.0])}},
...             base={"w": np.zeros(2)})
>>> HiMerging(keep=1.0, scale=0.5).merge(pool).tensors["w"]
array([ 3. , -2.5])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from plait.merging.base import Have, Merged, Merger, Pipeline
from plait.merging.pipeline import Free
from plait.merging.pool import Pool
from plait.merging.stages.cuts import Trim
from plait.merging.stages.signs import Agreeing
from plait.method import Card, Law, Need, Paper
from plait.weights.sinks import Sink

KEEP, SCALE = 0.2, 0.5
TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, kw_only=True)
class HiMerging(Merger):
    """The sum of what agrees in sign, its share and weight searched in pairs."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="hi_merging",
        summary="Trimmed, weighted task vectors that agree in sign; share and weight searched.",
        paper=Paper(
            title="Training-free LLM Merging for Multi-task Learning",
            authors=(
                "Zichuan Fu and Xian Wu and Yejing Wang and Wanyu Wang and Shanshan Ye and "
                "Hongzhi Yin and Yi Chang and Yefeng Zheng and Xiangyu Zhao"
            ),
            year=2025,
            venue="Annual Meeting of the Association for Computational Linguistics",
            url="https://arxiv.org/abs/2506.12379",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "the model-wise stage alone; how layers in conflict are treated next is not public",
            "keep = 0.2 and scale = 0.5 without validation rows; the paper always searches",
        ),
    )
    keep: float | None = None
    scale: float | None = None
    shares: tuple[float, ...] = TENTHS
    grid: tuple[float, ...] = TENTHS

    def __post_init__(self) -> None:
        for share in (*self.shares, KEEP if self.keep is None else self.keep):
            if not 0 < share <= 1:
                raise ValueError(f"keep is a share above 0 and at most 1, not {share:g}")
        if not self.shares:
            raise ValueError("hi_merging needs at least one share to search")

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """What is merged without validation rows."""
        return self._line(
            KEEP if self.keep is None else self.keep,
            SCALE if self.scale is None else self.scale,
        )

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Merge with the best pair; every pair that is not given is tried on validation."""
        if have.validation is None or not (self.keep is None or self.scale is None):
            return self.pipeline(pool).run(pool, Have(), sink, workers)
        tried = []
        scales = tuple(self.grid) if self.scale is None else (self.scale,)
        for keep in self.shares if self.keep is None else (self.keep,):
            line = self._line(keep, Free(grid=scales, fallback=SCALE))
            evidence = line.run(pool, have, workers=workers).evidence
            tried += [[keep, scale, loss] for scale, loss in evidence["search"]]
        best, keep, scale = min((t[2], t[0], t[1]) for t in tried if t[2] is not None)
        merged = self._line(keep, scale).run(pool, Have(), sink, workers)
        evidence = {"keep": keep, "scale": scale, "chosen": "on validation", "loss": best}
        return Merged(tensors=merged.tensors, evidence={**evidence, "search": tried})

    @staticmethod
    def _line(keep: float, scale: float | Free) -> Pipeline:
        trim = (Trim(keep=keep, per="tensor"),) if keep < 1 else ()
        return Pipeline(edits=trim, combine=Agreeing(over="nothing", zero="plus"), scale=scale)
