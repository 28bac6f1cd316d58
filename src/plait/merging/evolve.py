"""Evolution of a merge's recipe: weights, and densities, of every model, chosen by validation.

    w*, ρ* = argmin L(merge(θ₀; θ_1, …, θ_M; w, ρ))   over w in [0, most]^{M×K}, ρ in [0, 1]^{M×K}

where ``merge`` is one of mergekit's methods with weight w_m and density ρ_m [K] of model m, K
``anchors`` between which both run from the first block of the network to the last, and L the loss
on validation rows. Candidates come from an evolution strategy (CMA-ES), a model of the score or
chance; the first is w = 1/M, ρ = 1, so that the result is never worse than it on those rows. A
candidate that cannot be merged loses. A search costs ``trials`` merges and looks at validation.

>>> import numpy as np
>>> from plait.merging.base import Have
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([4.0])}, "b": {"w": np.array([-2.0])}},
...             base={"w": np.array([0.0])})
>>> far = Have(validation=lambda state: float((state["w"][0] - 3.1) ** 2))
>>> merged = Evolve(method="task_arithmetic", trials=80).merge(pool, far)
>>> merged.tensors["w"].round(1)
array([3.1])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.base import Have, Merged, Merger
from plait.merging.pool import Array, Pool, PoolError
from plait.merging.search import Search
from plait.method import Card, Need, Paper, resolve
from plait.weights.sinks import Sink

THINNING = frozenset({"ties", "dare_ties", "dare_linear"})
METHODS = ("linear", "task_arithmetic", *sorted(THINNING))
LEAST = 0.01  # a density of 0 keeps nothing


@dataclass(frozen=True, kw_only=True)
class Evolve(Merger):
    """Search the weights and densities of ``method`` by ``trials`` looks at validation.

    ``way`` is ``cma``, ``bayes`` or ``random``; ``spread`` the first step of ``cma`` as a share of
    the bounds.
    """

    card: ClassVar[Card] = Card(
        family="merging",
        name="evolve",
        summary="Weights and densities of every model by depth, evolved on validation rows.",
        paper=Paper(
            title="Evolutionary Optimization of Model Merging Recipes",
            authors="Takuya Akiba and Makoto Shing and Yujin Tang and Qi Sun and David Ha",
            year=2024,
            url="https://arxiv.org/abs/2403.13187",
        ),
        needs=frozenset({Need.BASE, Need.VALIDATION}),
        deviations=(
            "the search in parameter space; the paper's search of paths through layers is not here",
            "weights and densities run between anchors in depth; the authors set every block's own",
            "genes are bounded; mergekit takes magnitudes, so that two genomes are one recipe",
            "judged by the validation loss, where the authors take the score of the task",
        ),
    )
    method: Literal["linear", "task_arithmetic", "ties", "dare_ties", "dare_linear"] = "ties"
    anchors: int = 1
    most: float = 1.0
    way: Literal["cma", "bayes", "random"] = "cma"
    trials: int = 100
    spread: float = 1 / 6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is one of {', '.join(METHODS)}, not {self.method!r}")
        if self.anchors < 1:
            raise ValueError(f"anchors must be at least 1, got {self.anchors}")
        if not 0 < self.most < np.inf:
            raise ValueError(f"most must be a number above 0, got {self.most:g}")
        self._search()

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """The mean of the task vectors, without a search."""
        return {"method": "task_arithmetic", "trials": 1}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """A few tries of mergers with and without densities."""
        return (
            {"trials": 4},
            {"trials": 4, "method": "linear", "way": "random"},
            {"trials": 3, "method": "dare_ties", "anchors": 2},
        )

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Search, and merge by the best recipe."""
        validation = have.validation
        assert validation is not None, "its need was checked"

        def loss(genes: Array) -> float:
            try:
                return float(
                    validation(self._merger(pool, genes).merge(pool, workers=workers).tensors)
                )
            except PoolError:  # the weights became too large for their type
                return np.inf

        # All genes share the bounds 0 to 1: weights are multiples of `most`.
        start = np.full((self._rows, len(pool), self.anchors), 1.0)
        start[0] = min(1 / (len(pool) * self.most), 1.0)
        found = self._search().run(loss, start.ravel(), 0.0, 1.0)
        merged = self._merger(pool, found.values).run(pool, Have(), sink, workers)
        first = found.tries[0][1]
        evidence = {
            **self._recipe(pool, found.values),
            "loss": found.score,
            "start": first if np.isfinite(first) else None,
            "trials": len(found.tries),
        }
        return Merged(tensors=merged.tensors, evidence=evidence)

    @property
    def _rows(self) -> int:
        """Weights alone, or weights and densities."""
        return 2 if self.method in THINNING else 1

    def _recipe(self, pool: Pool, genes: Array) -> dict[str, dict[str, list[float]]]:
        """Weights, and densities, by model along the anchors."""
        weights, *densities = genes.reshape(self._rows, len(pool), self.anchors)
        found = {"weight": weights * self.most}
        if densities:
            found["density"] = np.maximum(densities[0], LEAST)
        return {
            key: dict(zip(pool.names, values.tolist(), strict=True))
            for key, values in found.items()
        }

    def _merger(self, pool: Pool, genes: Array) -> Merger:
        recipe = {"method": self.method, "seed": self.seed, **self._recipe(pool, genes)}
        merger: Merger = resolve("merging", {"mergekit": recipe})
        return merger

    def _search(self) -> Search:
        return Search(way=self.way, trials=self.trials, spread=self.spread, seed=self.seed)
