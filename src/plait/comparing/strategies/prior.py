"""The baseline that looks at no input: class shares, the mean or the rate of the training rows.

Half a label is added to every class, and to a rate, so that nothing is impossible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from plait.comparing.model import Model
from plait.comparing.plain.estimators import Constants
from plait.comparing.plain.fitting import alone
from plait.comparing.plain.model import EstimatorModel
from plait.comparing.plain.view import View
from plait.comparing.plan import Plan
from plait.comparing.strategy import Strategy
from plait.method import Card, Need
from plait.networks.heads import priors_of


@dataclass(frozen=True, kw_only=True)
class Prior(Strategy):
    """The same prediction for every row of a task."""

    card: ClassVar[Card] = Card(
        family="strategy",
        name="prior",
        summary="no inputs: the shares or the mean of the training labels",
        needs=frozenset({Need.LABELLED}),
    )
    baseline: ClassVar[bool] = True
    seeded: ClassVar[bool] = False

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:  # noqa: ARG002
        """Count."""
        dataset = plan.dataset
        values = {name: prior.tolist() for name, prior in priors_of(dataset).items()}
        return EstimatorModel(
            dataset.tasks, alone(dataset.tasks), View(inputs=()), Constants(values)
        )
