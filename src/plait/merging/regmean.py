"""RegMean: the linear layer whose outputs are closest to every model's on that model's own inputs.

    W = argmin_W Σ_m 1/N_m ‖X_m (W − W_m)ᵀ‖² = (Σ_m W_m G_m)(Σ_m G_m)⁻¹,   G_m = X_mᵀX_m / N_m

for the weight W [o, n] of every linear layer, or convolution laid out flat, where X_m [N_m, n] are
the inputs that reach it when model m runs on rows of its own task. Off the diagonal G_m is
multiplied by ``alpha``, which keeps the sum well away from singular. All other tensors are
averaged.

>>> import numpy as np, torch
>>> from plait.merging.base import Have
>>> from plait.merging.modules import ModuleBench
>>> from plait.merging.pool import Pool
>>> inputs = {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[0.0, 1.0]])}
>>> heads = {"a": torch.nn.Linear(1, 1), "b": torch.nn.Linear(1, 1)}
>>> bench = ModuleBench(torch.nn.Linear(2, 1, bias=False), heads, inputs, losses="squared")
>>> pool = Pool({"a": {"weight": np.float32([[3, 7]])}, "b": {"weight": np.float32([[9, 5]])}})
>>> RegMean().merge(pool, Have(bench=bench)).tensors["weight"]
array([[3., 5.]], dtype=float32)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from plait.merging.base import Have, Merged, Merger
from plait.merging.engine import BLOCK
from plait.merging.pool import Pool
from plait.merging.results import stored, write
from plait.merging.stages.descent import regressed
from plait.merging.stages.sums import added
from plait.merging.statistics.base import gather, stacked
from plait.merging.statistics.inputs import Grams
from plait.method import Card, Law, Need, Paper
from plait.weights.sinks import Sink
from plait.weights.sites import Site


@dataclass(frozen=True, kw_only=True)
class RegMean(Merger):
    """Least squares for every linear layer, from ``rows`` unlabelled rows of each task."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="regmean",
        summary="Every linear layer fits the models' outputs on their own inputs by least squares.",
        paper=Paper(
            title="Dataless Knowledge Fusion by Merging Weights of Language Models",
            authors="Xisen Jin and Xiang Ren and Daniel Preotiuc-Pietro and Pengxiang Cheng",
            year=2023,
            venue="International Conference on Learning Representations",
            url="https://arxiv.org/abs/2212.09849",
        ),
        needs=frozenset({Need.UNLABELLED}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "directions that no inputs take are the average's; the authors invert all the same",
            "padded positions are left out of the Gram matrices",
            "rows, not batches, are counted: 1,000 of each task",
        ),
    )
    alpha: float = 0.9
    rows: int = 1000
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], got {self.alpha:g}")
        self._grams()

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """With and without off-diagonals."""
        return ({}, {"alpha": 0.0, "rows": 8})

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """One pass a model for the Gram matrices, then a system for each linear layer."""
        grams = gather(self._grams(), have.live, pool)
        solved = set.intersection(*(set(source.names) for source in grams.values()))

        def place(site: Site) -> None:
            step = site.size if site.name in solved else BLOCK
            for start in range(0, site.size, step):
                stop = min(start + step, site.size)
                values, _ = pool.block(site, start, stop, against_base=False)
                if site.name in solved:
                    side = site.size // site.shape[0]
                    systems = stacked(grams, site, 0, side**2).reshape(-1, side, side)
                    values = values.reshape(len(pool), site.shape[0], side)
                    merged = regressed(values, systems, self.alpha).reshape(-1)
                else:
                    merged = added(values) / values.dtype.type(len(pool))
                sink.write(site, start, stored(merged, site))

        write(pool, sink, place, workers=workers)
        return Merged(tensors=sink.tensors, evidence={"solved": sorted(solved)})

    def _grams(self) -> Grams:
        return Grams(rows=self.rows, size=self.batch, seed=self.seed)
