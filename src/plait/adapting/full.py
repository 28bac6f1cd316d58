r"""Every weight of the network trains for all tasks together: the end of the scale that costs most.

    y_b = W_t f_θ(x_b) + c_t,   t = task of row b

Nothing is frozen: the network f_θ that adapters would leave as it is goes on from its start with
the heads W [T, outputs, d] and c [T, outputs]. It is what every adapter is measured against at the
other end from ``head_only``; encoders that a network holds frozen train, too.
Parameters: all of the network's.

    >>> from plait.adapting.full import Full
    >>> Full().whole
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from plait.adapting.base import Adapter
from plait.adapting.routing import Routing
from plait.method import Card, Law
from plait.sites import ModuleSite
from plait.task import TaskSet

NONE = "there is no adapter: the network itself trains"


@dataclass(frozen=True, kw_only=True)
class Full(Adapter):
    """Full fine-tuning."""

    whole = True

    card = Card(
        family="adapting",
        name="full",
        summary="Every weight of the network trains: the other end of the scale.",
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        exceptions={
            "only_banks_train": NONE,
            "frozen_part_evaluates": NONE,
            "unrouted_call_is_refused": "nothing inside asks for the rows' tasks",
            "learns": NONE,
        },
    )

    def choose(self, network: nn.Module) -> list[ModuleSite]:  # noqa: ARG002
        """None."""
        return []

    def attach(
        self,
        sites: Sequence[ModuleSite],  # noqa: ARG002
        tasks: TaskSet,  # noqa: ARG002
        routing: Routing,  # noqa: ARG002
    ) -> nn.ModuleDict:
        """Nothing."""
        return nn.ModuleDict()
