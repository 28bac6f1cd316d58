"""Every task counts the same: the plain sum of the losses.

α_i = 1, so the update is Σ_i g_i over the tasks present; a user's preference p_i multiplies L_i.

    >>> from plait.balancing.base import Signals
    >>> Equal()(Signals.of({"click": 0.3, "stars": 2.0}))
    tensor([1., 1.], dtype=torch.float64)
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.method import Card, Law, Need


@final
class Equal(Balancer):
    """The sum of the losses."""

    card = Card(
        family="balancing",
        name="equal",
        summary="The plain sum of the losses, each a mean over the task's own labels.",
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
    )
    rung = Rung.LOSSES
    blind = True

    def forward(self, s: Signals) -> Tensor:
        """α = 1, [t]."""
        return torch.ones_like(s.losses)
