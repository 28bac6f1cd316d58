"""RegMean++: RegMean block by block, on the inputs that the blocks merged before it give.

    W = (Σ_m W_m G_m)(Σ_m G_m)⁻¹,   G_m = 1/N_m Σ_x x xᵀ

for the weight W [o, n] of every linear layer or convolution of a block, where x [n] are the inputs
that reach it when *model m's* block runs, on rows of m's own task, behind the *merged* blocks
before it. Off the diagonal G_m is multiplied by ``alpha``. All other tensors are averaged. Layers
whose names have the same number are one block; a layer without a number is a block of its own.
Blocks follow one another as they run.

>>> import numpy as np, torch
>>> from plait.merging.base import Have
>>> from plait.merging.modules import ModuleBench
>>> from plait.merging.pool import Pool
>>> inputs = {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[0.0, 1.0]])}
>>> heads = {"a": torch.nn.Linear(1, 1), "b": torch.nn.Linear(1, 1)}
>>> bench = ModuleBench(torch.nn.Linear(2, 1, bias=False), heads, inputs, losses="squared")
>>> pool = Pool({"a": {"weight": np.float32([[3, 7]])}, "b": {"weight": np.float32([[9, 5]])}})
>>> RegMeanPlus().merge(pool, Have(bench=bench)).tensors["weight"]
array([[3., 5.]], dtype=float32)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from plait.merging.base import Have, Merged, Merger
from plait.merging.bench import Bench, array, put
from plait.merging.engine import BLOCK
from plait.merging.pool import Array, Pool
from plait.merging.results import stored, write
from plait.merging.stages.descent import regressed
from plait.merging.stages.sums import added
from plait.merging.statistics.inputs import Grams, listening
from plait.method import Card, Law, Need, Paper
from plait.weights.sinks import Sink
from plait.weights.sites import Site


@dataclass(frozen=True, kw_only=True)
class RegMeanPlus(Merger):
    """Least squares for every linear layer in turn, from ``rows`` unlabelled rows of each task."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="regmean_plus",
        summary="Linear layers fit the models' outputs on the inputs that merged layers give.",
        paper=Paper(
            title=(
                "RegMean++: Enhancing Effectiveness and Generalization of Regression Mean for "
                "Model Merging"
            ),
            authors="The-Hai Nguyen and Dang Huu-Tien and Takeshi Suzuki and Le-Minh Nguyen",
            year=2025,
            url="https://arxiv.org/abs/2508.03121",
        ),
        needs=frozenset({Need.UNLABELLED}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "tensors outside the blocks are averaged; the authors' code leaves some at the base",
            "directions that no inputs take are the average's; the authors invert all the same",
            "padded positions are left out of the Gram matrices",
        ),
    )
    alpha: float = 0.95
    rows: int = 256
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], got {self.alpha:g}")
        self._grams(())

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """A few rows."""
        return ({"rows": 6},)

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """For every block a pass a model, then a system for each of its linear layers."""
        bench = have.live
        sites = {site.name: site for site in pool.sites if site.floating and site.size}
        for site in sites.values():
            _average(pool, bench, site)
        blocks = [[n for n in names if n in sites] for names in self._blocks(pool, bench)]
        for names in filter(None, blocks):
            self._merge(pool, bench, names, sites)
        own = bench.weights

        def place(site: Site) -> None:
            values = array(own[site.name]).reshape(-1)
            for start in range(0, site.size, BLOCK):
                part = values[start : start + BLOCK].astype(site.working)
                sink.write(site, start, stored(part, site))

        write(pool, sink, place, workers=workers)
        return Merged(tensors=sink.tensors, evidence={"blocks": blocks})

    def _merge(self, pool: Pool, bench: Bench, names: list[str], sites: Mapping[str, Site]) -> None:
        """Put a block's merged weights on the bench; it has those of the blocks before."""
        mine = [site for site in sites.values() if _together(site, sites[names[0]])]
        kept = {site.name: array(bench.weights[site.name]).copy() for site in mine}
        grams = []
        for model in pool.names:
            bench.load(pool.alone(model).only(tuple(mine)), model)
            grams.append(self._grams(tuple(names)).of(bench, model))
        for name, average in kept.items():
            put(bench.weights[name], 0, average.reshape(-1))
        for name in names:
            site = sites[name]
            values, _ = pool.block(site, 0, site.size, against_base=False)
            systems = np.stack([found[name] for found in grams])
            merged = regressed(values.reshape(len(pool), site.shape[0], -1), systems, self.alpha)
            put(bench.weights[name], 0, merged.reshape(-1))

    def _blocks(self, pool: Pool, bench: Bench) -> list[list[str]]:
        """The weights of the linear layers, block by block, as they run."""
        ran: list[Site] = []
        known = {site.name: site for site in pool.sites}

        def heard(name: str, *_: Any) -> None:
            if name in known and known[name] not in ran:
                ran.append(known[name])

        with listening(bench.module, heard), torch.no_grad():
            bench.run(pool.names[0], np.arange(1))
        found: list[list[str]] = []
        for site in ran:
            if found and _together(known[found[-1][0]], site):
                found[-1].append(site.name)
            else:
                found.append([site.name])
        return found

    def _grams(self, only: tuple[str, ...]) -> Grams:
        return Grams(rows=self.rows, size=self.batch, seed=self.seed, only=only)


def _together(one: Site, other: Site) -> bool:
    """Whether two tensors are of one block: of one number, or of one module without a number."""
    if one.depth is None or other.depth is None:
        return one.name.rpartition(".")[0] == other.name.rpartition(".")[0]
    return one.depth == other.depth


def _average(pool: Pool, bench: Bench, site: Site) -> None:
    for start in range(0, site.size, BLOCK):
        stop = min(start + BLOCK, site.size)
        values, _ = pool.block(site, start, stop, against_base=False)
        mean: Array = added(values) / values.dtype.type(len(pool))
        put(bench.weights[site.name], start, mean)
