"""A plain LoRA of as many parameters as another adapter has: what that one must beat.

A multi-task adapter that wins against a smaller LoRA may owe it to its size. Here LoRA has, at its
own sites, the rank that comes nearest to the other's number of trained parameters, those of its
first stage included: at least 1, at most a layer's smaller side. Alpha is twice the rank; start,
passes and seeds are those of ``adapt``. A study adds it to every adapter that it compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from plait.adapting import AdaptedTrunk, Lora, build_adapted
from plait.comparing.apart import network_of
from plait.comparing.building import fresh, make_network
from plait.comparing.model import Model
from plait.comparing.plan import Plan
from plait.comparing.strategy import Started, Strategy
from plait.method import Card, Method, Need, resolve
from plait.networks import Network

RATIO = 2.0  # alpha over rank


@dataclass(frozen=True, kw_only=True)
class EqualLora(Started):
    """A LoRA as large as the adapter ``to``, in ``share`` of the passes as in ``adapt``."""

    card: ClassVar[Card] = Card(
        family="strategy",
        name="equal_lora",
        summary="plain LoRA of as many parameters as another adapter",
        needs=frozenset({Need.LABELLED}),
    )
    parts: ClassVar[Mapping[str, str]] = {"to": "adapting"}
    inline: ClassVar[str | None] = "to"
    to: Method | str = "mtl_lora"
    share: float = 1.0

    def words(self) -> str:
        """What it is."""
        name = fresh("adapting", self.to).card.name
        return f"lora adapters of as many parameters as {name}, on one frozen network"

    def check(self, plan: Plan) -> None:
        """As for the other adapter."""
        self._adapt(self.to).check(plan)

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:
        """Find the rank and train."""
        start = network_of(parts["start"], plan.tasks.names[0])
        made = self._adapt(self._lora(start)).run(plan, parts, seed, folder)
        lora = self._lora(start)["lora"]
        made.evidence.update({"rank": lora["rank"], "wanted": trained(start, self.to)})
        return made

    def seconds(self, plan: Plan) -> float:
        """As of that LoRA."""
        return self._adapt(self._lora(make_network(plan, 0))).seconds(plan)

    def _adapt(self, method: Any) -> Strategy:
        spelled: Any = {"adapt": {"method": method, "start": self.start, "share": self.share}}
        found: Strategy = resolve("strategy", spelled)
        return found

    def _lora(self, start: Network) -> dict[str, dict[str, float]]:
        linear = [site.module for site in Lora().choose(start.trunk)]
        sides = [(m.in_features, m.out_features) for m in linear if isinstance(m, nn.Linear)]
        each = len(start.tasks) * sum(map(sum, sides))
        rank = round(trained(start, self.to) / each)
        rank = min(max(rank, 1), *map(min, sides))
        return {"lora": {"rank": rank, "alpha": RATIO * rank}}


def trained(start: Network, spelled: Method | str) -> int:
    """How many parameters an adapter trains on a network, in all its stages."""
    adapter = fresh("adapting", spelled)
    before = 0
    if adapter.trained_on is not None:
        before = trained(start, adapter.trained_on)
        start = build_adapted(start, adapter.trained_on, 0)
    trunk = build_adapted(start, adapter, 0).trunk
    assert isinstance(trunk, AdaptedTrunk)
    return before + sum(p.numel() for p in trunk.parameters() if p.requires_grad)
