"""Each task's scale is learnt beside the network, until every scaled loss is one.

Minimise Σ_i e^(s_i) L_i − s_i over the network and over s [T]; α_i = e^(s_i). At the minimum over
s_i, α_i = 1/L_i: the sum of the log losses.

    >>> from plait.balancing.base import Signals
    >>> balancer = IMTLL(rate=0.1)
    >>> balancer.bind(["click", "stars"])
    >>> for step in range(300):
    ...     balancer.advance(Signals.of({"click": 0.5, "stars": 2.0}))
    >>> balancer(Signals.of({"click": 0.5, "stars": 2.0})).round(decimals=3)
    tensor([2.0000, 0.5000], dtype=torch.float64)
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.checks import not_negative
from plait.method import Card, Law, Need, Paper


@final
class IMTLL(Balancer):
    """Impartial learning, its loss balance.

    ``rate`` is the step of Adam on s; ``bound`` keeps s in [−bound, bound], because a perfect fit
    drives it to ∞. ``ValueError`` names the task whose loss is negative: its s has no minimum.
    """

    card = Card(
        family="balancing",
        name="imtl_l",
        summary="Learnt scales that make all losses equal.",
        paper=Paper(
            title="Towards Impartial Multi-task Learning",
            authors="Liu, Liyang and Li, Yi and Kuang, Zhanghui and Xue, Jing-Hao and Chen, Yimin "
            "and Yang, Wenming and Liao, Qingmin and Zhang, Wayne",
            year=2021,
            venue="ICLR",
            url="https://openreview.net/forum?id=IMPnRXEWpvr",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "s has its own Adam without weight decay; the paper learns it with the network.",
            "s is bounded; the paper leaves it free.",
        ),
    )
    rung = Rung.LOSSES
    blind = True
    memory: ClassVar = {"log_scale": 0.0}
    learns = "log_scale"
    log_scale: Tensor

    def __init__(self, *, rate: float = 0.025, bound: float = 8.0) -> None:
        if not (rate > 0 and bound > 0):
            raise ValueError(f"rate and bound must be positive, got {rate} and {bound}")
        super().__init__()
        self.rate = rate
        self.bound = bound

    def forward(self, s: Signals) -> Tensor:
        """α = e^s, [t]."""
        return torch.exp(self.recall("log_scale", s))

    def objective(self, learnt: Tensor, s: Signals, after: Tensor | None) -> Tensor:
        """Σ e^s L − s, a scalar."""
        del after
        losses = not_negative("imtl_l", "balances", s, s.losses)
        return (torch.exp(learnt) * losses - learnt).sum()

    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        """One step of Adam on s, then the bound."""
        super().advance(s, after)
        self.log_scale.clamp_(-self.bound, self.bound)
