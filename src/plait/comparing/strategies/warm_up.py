"""A common start: one network for all tasks, trained together for a share of the passes.

It is what the experts of a merge, and adapters where no encoder is pretrained, begin from. With a
share of 0 it is the network before any training, which is a common start where the encoder is
pretrained; in a study that is given experts it is their base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from plait.comparing import ready
from plait.comparing.building import encoder_frozen, make_network, train_network
from plait.comparing.model import Model, NetworkModel
from plait.comparing.plan import Plan
from plait.comparing.strategy import Strategy
from plait.comparing.timing import seconds_of
from plait.method import Card, Need


@dataclass(frozen=True, kw_only=True)
class WarmUp(Strategy):
    """Joint training for ``share`` of the plan's passes; ``freeze`` as for ``joint``."""

    card: ClassVar[Card] = Card(
        family="strategy",
        name="warm_up",
        summary="a common start for experts: a few passes of joint training",
        needs=frozenset({Need.LABELLED}),
    )
    share: float = 0.25
    freeze: bool | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"share must lie in [0, 1), got {self.share}")

    def passes(self, plan: Plan) -> int:
        """How many of the plan's passes it takes."""
        if self.share == 0:
            return 0
        return min(max(1, round(self.share * plan.training.passes)), plan.training.passes)

    def random(self, plan: Plan) -> bool:
        """Whether anything is drawn that counts."""
        return plan.experts is None or self.share > 0

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:  # noqa: ARG002
        """Build, and train for a while."""
        if plan.experts is not None and self.share == 0:
            return ready.base(plan)
        plan = plan if self.freeze is None else encoder_frozen(plan, frozen=self.freeze)
        network = make_network(plan, seed)
        passes = self.passes(plan)
        if passes:
            train_network(plan, network, seed, folder, passes=passes, early=False)
        return NetworkModel(network, {"passes": passes})

    def seconds(self, plan: Plan) -> float:
        """From a few timed steps."""
        passes = self.passes(plan)
        return (
            seconds_of(plan, make_network(plan, 0), passes=passes, early=False) if passes else 0.0
        )
