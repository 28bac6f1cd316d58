"""One network for all tasks: a way to share it, and a way to make one update of many losses.

The balancer decides how the tasks' losses and gradients become one update, the sharing which
parameters they have in common; a procedure changes the step itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from plait.comparing.building import (
    encoder_frozen,
    experts_used,
    fresh,
    make_network,
    train_network,
)
from plait.comparing.model import Model, NetworkModel
from plait.comparing.plan import Plan
from plait.comparing.strategy import Strategy
from plait.comparing.timing import seconds_of
from plait.method import Card, Method, Need, spell
from plait.networks import Network
from plait.training.procedures.base import Procedure


@dataclass(frozen=True, kw_only=True)
class Joint(Strategy):
    """Train all tasks together.

    ``freeze`` says whether pretrained parts of the encoder stay as they are (None: as the encoder
    says).
    """

    card: ClassVar[Card] = Card(
        family="strategy",
        name="joint",
        summary="one network for all tasks, trained together",
        needs=frozenset({Need.LABELLED}),
    )
    parts: ClassVar[Mapping[str, str]] = {
        "sharing": "sharing",
        "balancing": "balancing",
        "procedure": "procedure",
    }
    sharing: Method | str = "hard"
    balancing: Method | str = "equal"
    procedure: Method | str | None = None
    freeze: bool | None = None

    def words(self) -> str:
        """What it is."""
        shared, balanced = _name(self.sharing), _name(self.balancing)
        extra = [] if shared == "hard" else [f"{shared} sharing"]
        extra += [] if balanced == "equal" else [f"{balanced} balancing"]
        extra += [] if self.procedure is None else [_name(self.procedure)]
        extra += {None: [], True: ["frozen encoder"], False: ["tuned encoder"]}[self.freeze]
        return "one network for all tasks" + (f" ({', '.join(extra)})" if extra else "")

    def check(self, plan: Plan) -> None:
        """Freezing needs something pretrained."""
        if self.freeze is not None and not plan.pretrained:
            raise ValueError("joint: freeze is about a pretrained encoder, and this one has none")

    def plan_for(self, plan: Plan) -> Plan:
        """The plan with the encoder frozen or not, as ``freeze`` says."""
        return plan if self.freeze is None else encoder_frozen(plan, frozen=self.freeze)

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:  # noqa: ARG002
        """Build and train."""
        plan = self.plan_for(plan)
        network = self._network(plan, seed)
        found = train_network(
            plan, network, seed, folder, balancer=self.balancing, procedure=self.procedure
        )
        used = experts_used(plan, network)
        return NetworkModel(network, found | ({"experts": used} if used else {}))

    def seconds(self, plan: Plan) -> float:
        """From a few timed steps."""
        plan = self.plan_for(plan)
        network = self._network(plan, 0)
        return seconds_of(plan, network, balancer=self.balancing, procedure=self.procedure)

    def _network(self, plan: Plan, seed: int) -> Network:
        """The network that is trained, which a procedure may make of another."""
        procedure: Procedure = fresh("procedure", self.procedure or "plain")
        return procedure.prepare(make_network(plan, seed, sharing=self.sharing))


def _name(spelled: Any) -> str:
    found = spell(spelled) if isinstance(spelled, Method) else spelled
    return str(next(iter(found)) if isinstance(found, Mapping) else found)
