"""Small modules for each task on one frozen network.

The frozen network is the pretrained encoder, or one that was warmed up jointly; of its parameters
none changes. Each task has its own adapter and head, stacked and routed by the record's task. A
method of two stages goes on from a network with the trained adapters of its first, which is a cell
of its own: trained once, combined by as many methods as ask for it. Both stages share the passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from plait.adapting.adapted import build_adapted
from plait.comparing.apart import network_of
from plait.comparing.building import adapters_used, fresh, make_network, train_network
from plait.comparing.model import Model, NetworkModel, featured
from plait.comparing.plan import Plan
from plait.comparing.strategy import Started, Strategy
from plait.comparing.timing import seconds_of
from plait.data.mixing import feed_for
from plait.method import Card, Method, Need, spell

PLAIN = ("lora", "head_only", "full")  # what a LoRA of equal size says nothing new about


@dataclass(frozen=True, kw_only=True)
class Adapt(Started):
    """Train adapters by ``method`` on the network that ``start`` names.

    ``share`` is the part of the passes left by the start that this training may take.
    """

    card: ClassVar[Card] = Card(
        family="strategy",
        name="adapt",
        summary="small adapters per task on one frozen network",
        needs=frozenset({Need.LABELLED}),
    )
    parts: ClassVar[Mapping[str, str]] = {"method": "adapting"}
    inline: ClassVar[str | None] = "method"
    method: Method | str = "lora"
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {self.share}")

    def words(self) -> str:
        """What it is."""
        name = self._adapter().card.name
        first = self._first()
        if first is not None:
            return f"{name} over {first.words()}"
        if self._adapter().whole:
            return "one network from a common start, every weight of it trained for all tasks"
        return f"{name} adapters per task on one frozen network"

    def beside(self) -> Mapping[str, Any]:
        """A plain LoRA of as many parameters."""
        adapter = self._adapter()
        if adapter.card.name in PLAIN:
            return {}
        settings = {"to": spell(adapter), "start": self.start, "share": self.share}
        return {"lora": {"equal_lora": settings}}

    def requires(self, plan: Plan) -> Mapping[str, Strategy]:
        """The common start, or the network with the adapters of the first stage."""
        first = self._first()
        return super().requires(plan) if first is None else {"start": first}

    def check(self, plan: Plan) -> None:
        """The start must exist, and what stands in transformers needs one."""
        super().check(plan)
        adapter = self._adapter()
        if adapter.transformers_only and not any(
            "transformer" in str(e) for e in plan.encoder.values()
        ):
            raise ValueError(
                f"adapt: {adapter.card.name} adapts transformers, and the encoder has none; set "
                "encoder: {text: {transformer: {pretrained: …}}}"
            )

    def passes(self, plan: Plan) -> int:
        """Its share of the passes that the start leaves; after a first stage, the rest."""
        left = super().passes(plan)
        first = self._first()
        taken = 0 if first is None else first.passes(plan)
        return max(1, round(self.share * left) - taken)

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:
        """Attach the adapters, started from the training rows where they ask, and train them."""
        start, adapter = parts["start"], self._adapter()
        network = build_adapted(network_of(start, plan.tasks.names[0]), adapter, seed)
        data = featured(network, plan.dataset, plan.folder)
        feed = feed_for(data, plan.training, seed, network.tasks.names)
        device = next(network.parameters()).device
        adapter.begin(network.trunk, (feed.batch(n).to(device) for n in range(feed.steps)))
        passes = self.passes(plan)
        found = train_network(plan, network, seed, folder, passes=passes)
        spent = int(start.evidence["passes"])
        found |= adapters_used(network)
        found = {**found, "best_pass": spent + found["best_pass"], "passes": spent + passes}
        return NetworkModel(network, found)

    def seconds(self, plan: Plan) -> float:
        """From a few timed steps."""
        network, adapter = make_network(plan, 0), self._adapter()
        if adapter.trained_on is not None:
            network = build_adapted(network, adapter.trained_on, 0)
        network = build_adapted(network, adapter, 0)
        return seconds_of(plan, network, passes=self.passes(plan))

    def _first(self) -> Adapt | None:
        """The strategy of the first stage, for methods that have two."""
        first = self._adapter().trained_on
        if first is None:
            return None
        return Adapt(method=first, start=self.start, share=self.share / 2)

    def _adapter(self) -> Any:
        return fresh("adapting", self.method)
