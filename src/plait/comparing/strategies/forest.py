"""The baseline of random forests, one per task or one for all alike tasks with the task's number.

Categories are codes, and of a text only the thousand most frequent tokens are seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import scipy.sparse

from plait.comparing.model import Model
from plait.comparing.plain.baseline import Baseline
from plait.comparing.plain.estimators import Forests, Trees, threads
from plait.comparing.plain.fitting import Sample, Samples, quiet, random_state
from plait.comparing.plan import Plan
from plait.comparing.timing import extrapolated
from plait.method import Card, Need

DENSE = 250_000_000  # numbers: up to here a dense table fits, and trees grow seven times faster


@dataclass(frozen=True, kw_only=True)
class Forest(Baseline):
    """Random forests of ``trees`` trees with at least ``leaf`` rows in a leaf."""

    card: ClassVar[Card] = Card(
        family="strategy",
        name="forest",
        summary="a random forest for each task, or one with the task's number",
        needs=frozenset({Need.LABELLED}),
    )
    each: ClassVar[str] = "a random forest"
    one: ClassVar[str] = "one random forest"
    trees: int = 100
    leaf: int = 2

    def __post_init__(self) -> None:
        if self.trees < 1 or self.leaf < 1:
            raise ValueError("trees and leaf must be at least 1")

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:  # noqa: ARG002
        """Fit the forests."""
        samples = Samples(plan, codes=True, pooled=self.pooled)
        with quiet():
            fitted = {s.pool.name: self._fit(s, seed) for s in samples}
        return samples.model(Forests(fitted))

    def seconds(self, plan: Plan) -> float:
        """From a few trees."""

        def run(trees: int) -> Model:
            return replace(self, trees=trees).run(plan, {}, 0, Path())

        return extrapolated(run, self.trees)

    def _fit(self, sample: Sample, seed: int) -> Trees:
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

        state = random_state(seed, "forest", sample.pool.name)
        settings = {
            "n_estimators": self.trees, "min_samples_leaf": self.leaf, "random_state": state,
            "n_jobs": threads(),
        }  # fmt: skip
        if sample.kind.kind in ("real", "counts"):
            forest = RandomForestRegressor(max_features=1 / 3, **settings)
            target = sample.target
        else:
            forest = RandomForestClassifier(**settings)
            target = sample.target.astype(int)
        table = sample.table
        if scipy.sparse.issparse(table) and np.prod(table.shape) <= DENSE:
            table = table.toarray()
        forest.fit(table, target, sample.weight)
        classes = 2 if sample.kind.kind == "binary" else len(sample.kind.classes)
        return Trees.of(forest, classes)
