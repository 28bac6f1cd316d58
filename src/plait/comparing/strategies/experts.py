"""One network per task, all from one common start, so that their weights can be merged.

The passes of the start count: each expert gets those that are left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from plait.comparing.apart import Apart, network_of
from plait.comparing.model import Model
from plait.comparing.plan import Plan
from plait.comparing.strategy import Started
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

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:
        """Train each task's network from the start."""
        network = network_of(parts["start"], plan.tasks.names[0])
        return Apart(plan=plan, seed=seed, start=network, passes=self.passes(plan)).run(folder)

    def seconds(self, plan: Plan) -> float:
        """From a few timed steps."""
        return Apart(plan=plan, seed=0, passes=self.passes(plan)).seconds()
