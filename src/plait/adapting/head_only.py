"""Nothing but the heads: the end of the scale where a task costs least.

    y_b = W_t f(x_b) + c_t,   t = task of row b

The frozen network f is used as it is, and each task trains its linear head W [T, outputs, d] and c
[T, outputs] on the features. It is the baseline that every adapter must beat to be worth its
parameters: 0 beside the heads.

    >>> from plait.adapting.head_only import HeadOnly
    >>> HeadOnly().settings()
    {}
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

NOTHING = "there is nothing to train but the heads"


@dataclass(frozen=True, kw_only=True)
class HeadOnly(Adapter):
    """No adapter; only the heads train."""

    card = Card(
        family="adapting",
        name="head_only",
        summary="Nothing but the heads trains: the cheapest end of the scale.",
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        exceptions={
            "only_banks_train": NOTHING,
            "unrouted_call_is_refused": "nothing inside asks for the rows' tasks",
            "learns": NOTHING,
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
