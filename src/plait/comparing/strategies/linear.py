"""The linear baseline: logistic, ridge or Poisson regression on the encoded inputs.

    minimise  Σ_rows loss(w·x + b, y) + strength/2 · ‖w‖²

with x [F] a row's numbers, one-hot categories and token counts (see
:class:`plait.comparing.plain.view.View`). One strength serves all tasks: where it is not given, it
is the one with the lowest validation loss. With ``pooled``, tasks of one kind on the same inputs
share w, and each has an intercept of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from plait.comparing.model import Model
from plait.comparing.plain.estimators import Linears
from plait.comparing.plain.fitting import Sample, Samples, poolable, quiet
from plait.comparing.plan import Plan
from plait.comparing.strategy import Strategy
from plait.method import Card, Need

STRENGTHS = (0.3, 3.0, 30.0, 300.0)
NEVER = -700.0  # the intercept of a class that no training row has: exp is still a number


@dataclass(frozen=True, kw_only=True)
class Linear(Strategy):
    """One linear model per task, or one for all alike tasks."""

    card: ClassVar[Card] = Card(
        family="strategy",
        name="linear",
        summary="a linear model for each task, or one with the task's number",
        needs=frozenset({Need.LABELLED}),
    )
    baseline: ClassVar[bool] = True
    seeded: ClassVar[bool] = False
    pooled: bool = False
    strength: float | None = None

    def __post_init__(self) -> None:
        if self.strength is not None and not self.strength > 0:
            raise ValueError(f"strength must be positive, got {self.strength}")

    def words(self) -> str:
        """What it is."""
        return (
            "one linear model with the task's number" if self.pooled else "a linear model per task"
        )

    def check(self, plan: Plan) -> None:
        """Pooling needs tasks that are alike."""
        if self.pooled and not poolable(plan.dataset):
            raise ValueError("linear: pooled needs two tasks of one kind on the same inputs")

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:  # noqa: ARG002
        """Fit every strength, keep the best."""
        samples = Samples(plan, codes=False, pooled=self.pooled)

        def fit(strength: float) -> Linears:
            with quiet():
                fitted = {s.pool.name: fit_linear(s, strength) for s in samples}
            return Linears(
                {k: w for k, (w, _) in fitted.items()}, {k: b for k, (_, b) in fitted.items()}
            )

        if self.strength is not None:
            return samples.model(fit(self.strength), {"strength": self.strength})
        return samples.model(*samples.choose(STRENGTHS, fit))

    def settled(self, found: Mapping[str, Any]) -> Linear:
        """With the strength that validation chose."""
        return replace(self, strength=found["strength"])


def fit_linear(sample: Sample, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights [outputs, F] and intercepts [outputs] for one sample."""
    from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge

    kind, weight = sample.kind.kind, sample.weight
    n = len(sample.target)
    if kind == "real":
        found = Ridge(alpha=strength, solver="auto").fit(sample.table, sample.target, weight)
        return np.atleast_2d(found.coef_), np.atleast_1d(found.intercept_)
    if kind == "counts":
        found = PoissonRegressor(alpha=strength / n, max_iter=200)
        found.fit(sample.table, sample.target, weight)
        return np.atleast_2d(found.coef_), np.atleast_1d(found.intercept_)
    outputs = 1 if kind == "binary" else sample.kind.outputs + (kind == "ordinal")
    seen = np.unique(sample.target).astype(int)
    weights = np.zeros((outputs, sample.table.shape[1]))
    intercepts = np.full(outputs, NEVER)
    if len(seen) == 1:
        intercepts[0 if kind == "binary" else seen[0]] = -NEVER if seen[0] or outputs > 1 else NEVER
        return weights, intercepts
    found = LogisticRegression(C=1 / strength, max_iter=300)
    found.fit(sample.table, sample.target.astype(int), weight)
    if len(seen) == 2 and outputs > 1:  # scikit-learn keeps the second class's row only
        weights[seen[1]], intercepts[seen] = found.coef_[0], (0.0, found.intercept_[0])
    else:
        where = slice(None) if kind == "binary" else seen
        weights[where], intercepts[where] = found.coef_, found.intercept_
    return weights, intercepts
