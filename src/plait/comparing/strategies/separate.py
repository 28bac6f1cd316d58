"""One network per task: the zero of the scale that every other way is measured on.

Each has the plan's encoder and sees as many passes over the task's labelled rows as any other
strategy gives them. Many small networks are trained side by side in one stacked network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from plait.comparing.apart import Apart
from plait.comparing.model import Model
from plait.comparing.plan import Plan
from plait.comparing.strategy import Strategy
from plait.method import Card, Need


@dataclass(frozen=True, kw_only=True)
class Separate(Strategy):
    """A network for each task, trained on its own rows alone."""

    card: ClassVar[Card] = Card(
        family="strategy",
        name="separate",
        summary="one network per task (single-task), the zero of the scale",
        needs=frozenset({Need.LABELLED}),
    )

    def words(self) -> str:
        """What it is."""
        return "one network per task"

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:  # noqa: ARG002
        """Train each task's network."""
        return Apart(plan=plan, seed=seed).run(folder)

    def seconds(self, plan: Plan) -> float:
        """From a few timed steps."""
        return Apart(plan=plan, seed=0).seconds()
