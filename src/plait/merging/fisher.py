"""Fisher merging: average the models entry by entry, each weighed by how much it depends on it.

    θ = Σ_m c_m F̃_m ⊙ θ_m / Σ_m c_m F̃_m,   F̃_m = F_m + ε

with F_m [*s] the diagonal of model m's Fisher information on rows of its own task, in exact
expectation over labels (:mod:`plait.merging.statistics.fisher`), and c_m ``weights`` by model name.
``normalise`` divides c_m by the norm of F_m over the whole model, so that no task's scale counts.

>>> import numpy as np, torch
>>> from plait.merging.base import Have
>>> from plait.merging.modules import ModuleBench
>>> from plait.merging.pool import Pool
>>> inputs = {"a": torch.tensor([[2.0, 0.0]]), "b": torch.tensor([[2.0, 2.0]])}
>>> head = torch.nn.Linear(1, 1)
>>> bench = ModuleBench(torch.nn.Linear(2, 1, bias=False), {"a": head, "b": head}, inputs,
...                     losses="squared")
>>> pool = Pool({"a": {"weight": np.float32([[3, 7]])}, "b": {"weight": np.float32([[9, 5]])}})
>>> Fisher(floor=1e-12).merge(pool, Have(bench=bench)).tensors["weight"]
array([[6., 5.]], dtype=float32)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from plait.merging.base import Have, Merged, Merger
from plait.merging.engine import BLOCK
from plait.merging.pool import Array, Pool
from plait.merging.results import stored, write
from plait.merging.stages.sums import added
from plait.merging.statistics.base import gather, stacked
from plait.merging.statistics.fisher import Diagonal
from plait.method import Card, Law, Need, Paper
from plait.weights.sinks import Sink
from plait.weights.sites import Site
from plait.weights.sources import Source


@dataclass(frozen=True, kw_only=True)
class Fisher(Merger):
    """An average weighed by Fisher information from ``rows`` unlabelled rows of each task."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="fisher",
        summary="An average of the models, entry by entry weighed by their Fisher information.",
        paper=Paper(
            title="Merging Models with Fisher-Weighted Averaging",
            authors="Michael Matena and Colin Raffel",
            year=2022,
            venue="Advances in Neural Information Processing Systems",
            url="https://arxiv.org/abs/2111.09832",
        ),
        needs=frozenset({Need.UNLABELLED, Need.HEADS, Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "the floor is added for every model; the authors' code raises the first model only",
            "real targets count as Gaussian of variance 1, counts as Poisson",
            "the weights c are settings, not searched for",
        ),
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"weights": "every"}
    weights: Mapping[str, float] | None = None
    normalise: bool = False
    floor: float = 1e-6
    rows: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise ValueError(f"floor must be above 0, got {self.floor:g}")
        self._diagonal()

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """As it is, and normalised."""
        return ({"rows": 6}, {"rows": 4, "normalise": True})

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Gradients of single rows for each model, then a weighed average."""
        weights = self._weights(pool)
        found = gather(self._diagonal(), have.live, pool)
        norms = [_norm(source) for source in found.values()]
        if self.normalise:
            weights = weights / [norm or 1.0 for norm in norms]
        known = set.intersection(*(set(source.names) for source in found.values()))

        def place(site: Site) -> None:
            for start in range(0, site.size, BLOCK):
                stop = min(start + BLOCK, site.size)
                values, _ = pool.block(site, start, stop, against_base=False)
                share = np.zeros_like(values)
                if site.name in known:
                    share = stacked(found, site, start, stop)
                share += site.working.type(self.floor)
                share *= weights.astype(share.dtype)[:, None]
                values *= share
                merged = added(values, into=values[0]) / added(share, into=share[0])
                sink.write(site, start, stored(merged, site))

        write(pool, sink, place, workers=workers)
        told = {"norms": dict(zip(pool.names, norms, strict=True))}
        return Merged(tensors=sink.tensors, evidence=told)

    def _weights(self, pool: Pool) -> Array:
        given = dict.fromkeys(pool.names, 1.0) if self.weights is None else self.weights
        strange = sorted(set(given) ^ set(pool.names))
        if strange:
            raise ValueError(f"fisher: weights and models differ in: {', '.join(strange)}")
        return np.array([given[name] for name in pool.names], np.float64)

    def _diagonal(self) -> Diagonal:
        return Diagonal(rows=self.rows, seed=self.seed)


def _norm(source: Source) -> float:
    """The norm of all values of a statistic."""
    total = 0.0
    for site in source.sites.values():
        for start in range(0, site.size, BLOCK):
            values = np.empty(min(BLOCK, site.size - start), site.working)
            source.read(site.name, start, start + len(values), values)
            total += float(np.dot(values.astype(np.float64), values))
    return float(total**0.5)
