"""Small modules for each task on one frozen network.

The frozen network is the pretrained encoder, or one that was warmed up jointly; of its parameters
none changes. Each task has its own adapter and head, stacked and routed by the record's task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from plait.adapting.adapted import build_adapted
from plait.comparing.apart import network_of
from plait.comparing.building import fresh, make_network, train_network
from plait.comparing.model import Model, NetworkModel
from plait.comparing.plan import Plan
from plait.comparing.strategy import Started
from plait.comparing.timing import seconds_of
from plait.method import Card, Method, Need


@dataclass(frozen=True, kw_only=True)
class Adapt(Started):
    """Train adapters by ``method`` on the network that ``start`` names."""

    card: ClassVar[Card] = Card(
        family="strategy",
        name="adapt",
        summary="small adapters per task on one frozen network",
        needs=frozenset({Need.LABELLED}),
    )
    parts: ClassVar[Mapping[str, str]] = {"method": "adapting"}
    inline: ClassVar[str | None] = "method"
    method: Method | str = "lora"

    def words(self) -> str:
        """What it is."""
        return f"{self._adapter().card.name} adapters per task on one frozen network"

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:
        """Attach the adapters and train them with the heads."""
        start = parts["start"]
        network = build_adapted(network_of(start, plan.tasks.names[0]), self._adapter(), seed)
        found = train_network(plan, network, seed, folder, passes=self.passes(plan))
        spent = int(start.evidence["passes"])
        return NetworkModel(network, {**found, "best_pass": spent + found["best_pass"]})

    def seconds(self, plan: Plan) -> float:
        """From a few timed steps."""
        network = build_adapted(make_network(plan, 0), self._adapter(), 0)
        return seconds_of(plan, network, passes=self.passes(plan))

    def _adapter(self) -> Any:
        return fresh("adapting", self.method)
