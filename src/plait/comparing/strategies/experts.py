"""One network per task, all from one common start, so that their weights can be merged.

The passes of the start count: each expert gets those that are left. Experts that the study is given
as folders are read, and nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from plait.comparing import ready
from plait.comparing.apart import Apart, network_of
from plait.comparing.model import Model
from plait.comparing.plan import Plan
from plait.comparing.strategy import Started, Strategy
from plait.method import Card, Need


@dataclass(frozen=True, kw_only=True)
class Experts(Started):
    """Fine-tune each task alone from ``start``."""

    card: ClassVar[Card] = Card(
        family="strategy",
        name="experts",
        summary="one network per task, all fine-tuned from one common start",
        needs=frozenset({Need.LABELLED}),
    )

    def words(self) -> str:
        """What it is."""
        return "one network per task, all tuned from one common start"

    def requires(self, plan: Plan) -> Mapping[str, Strategy]:
        """The common start of those that are trained."""
        return {} if plan.experts is not None else super().requires(plan)

    def check(self, plan: Plan) -> None:
        """The start must exist, and experts that are given must be the study's."""
        super().check(plan)
        if plan.experts is not None:
            ready.check(plan)

    def random(self, plan: Plan) -> bool:
        """Whether they are trained."""
        return plan.experts is None

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:
        """Train each task's network from the start, or read it where the study has it."""
        if plan.experts is not None:
            return ready.experts(plan)
        network = network_of(parts["start"], plan.tasks.names[0])
        return Apart(plan=plan, seed=seed, start=network, passes=self.passes(plan)).run(folder)

    def seconds(self, plan: Plan) -> float:
        """From a few timed steps."""
        if plan.experts is not None:
            return 0.0
        return Apart(plan=plan, seed=0, passes=self.passes(plan)).seconds()
