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
from plait.comparing.plain.baseline import Baseline
from plait.comparing.plain.estimators import Linears
from plait.comparing.plain.fitting import Sample, Samples, quiet, threaded
from plait.comparing.plan import Plan
from plait.method import Card, Need
from plait.task import Task

STRENGTHS = (0.3, 3.0, 30.0, 300.0)
ROUNDS, EACH = 100, 5e-10  # of a solver over a table, and its seconds for a number: for estimates
NEVER = -700.0  # the intercept of a class that no training row has: exp is still a number


@dataclass(frozen=True, kw_only=True)
class Linear(Baseline):
    """One linear model per task, or one for all alike tasks."""

    card: ClassVar[Card] = Card(
        family="strategy",
        name="linear",
        summary="a linear model for each task, or one with the task's number",
        needs=frozenset({Need.LABELLED}),
    )
    seeded: ClassVar[bool] = False
    each: ClassVar[str] = "a linear model"
    one: ClassVar[str] = "one linear model"
    strength: float | None = None

    def __post_init__(self) -> None:
        if self.strength is not None and not self.strength > 0:
            raise ValueError(f"strength must be positive, got {self.strength}")

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:  # noqa: ARG002
        """Fit every strength, keep the best."""
        samples = Samples(plan, codes=False, pooled=self.pooled)

        def fit(strength: float) -> Linears:
            fitted = {}
            for sample in samples:
                with quiet(), threaded(sample.table):
                    fitted[sample.pool.name] = fit_linear(sample, strength)
            return Linears(
                {k: w for k, (w, _) in fitted.items()}, {k: b for k, (_, b) in fitted.items()}
            )

        if self.strength is not None:
            return samples.model(fit(self.strength), {"strength": self.strength})
        return samples.model(*samples.choose(STRENGTHS, fit))

    def seconds(self, plan: Plan) -> float:
        """From the size of the tables: the solvers go over them about so many times."""
        samples = Samples(plan, codes=False, pooled=self.pooled)
        size = float(sum(sample.table.size * outputs_of(sample.kind) for sample in samples))
        return size * ROUNDS * (1 if self.strength is not None else len(STRENGTHS)) * EACH

    def settled(self, found: Mapping[str, Any]) -> Linear:
        """With the strength that validation chose."""
        return replace(self, strength=found["strength"])


def outputs_of(task: Task) -> int:
    """Rows of a task's weights: one for a number or a yes, one for each class."""
    return len(task.classes) if task.named else 1


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
    outputs = outputs_of(sample.kind)
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
