"""Each task's noise is learnt beside the network, and tasks that are noisy weigh less.

Minimise Σ_i κ_i e^(−s_i) L_i + ½ s_i over the network and over s [T], s_i = log σ_i² the log
variance of task i, κ_i = ½ for squared errors and 1 for other losses; so α_i = κ_i e^(−s_i).
At the minimum over s_i, e^(s_i) = 2 κ_i L_i and α_i = 1/(2 L_i) for every kind.

    >>> from plait.balancing.base import Signals
    >>> balancer = Uncertainty(rate=0.1)
    >>> balancer.bind(["click", "stars"])
    >>> for step in range(300):
    ...     balancer.advance(Signals.of({"click": 0.5, "stars": 2.0}))
    >>> balancer(Signals.of({"click": 0.5, "stars": 2.0})).round(decimals=3)
    tensor([1.0000, 0.2500], dtype=torch.float64)
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.method import Card, Law, Need, Paper


@final
class Uncertainty(Balancer):
    """Homoscedastic uncertainty as weight.

    ``rate`` is the step of Adam on s; ``bound`` keeps s in [−bound, bound], because a perfect fit
    drives it to −∞.
    """

    card = Card(
        family="balancing",
        name="uncertainty",
        summary="Weights by a learnt noise level for each task.",
        paper=Paper(
            title="Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and "
            "Semantics",
            authors="Kendall, Alex and Gal, Yarin and Cipolla, Roberto",
            year=2018,
            venue="CVPR",
            url="https://arxiv.org/abs/1705.07115",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "s has its own Adam without weight decay; the authors use the network's optimizer.",
            "s is bounded; the authors leave it free.",
            "Squared errors carry the paper's factor ½; the authors' code doubles the objective.",
        ),
    )
    rung = Rung.LOSSES
    blind = True
    memory: ClassVar = {"log_variance": 0.0}
    learns = "log_variance"
    log_variance: Tensor

    def __init__(self, *, rate: float = 0.025, bound: float = 8.0) -> None:
        if not (rate > 0 and bound > 0):
            raise ValueError(f"rate and bound must be positive, got {rate} and {bound}")
        super().__init__()
        self.rate = rate
        self.bound = bound

    def forward(self, s: Signals) -> Tensor:
        """α = κ e^(−s), [t]."""
        return self._factor(s) * torch.exp(-self.log_variance[self.rows(s)])

    def objective(self, learnt: Tensor, s: Signals, after: Tensor | None) -> Tensor:
        """Σ κ e^(−s) L + ½ s, a scalar."""
        del after
        return (self._factor(s) * torch.exp(-learnt) * s.losses + learnt / 2).sum()

    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        """One step of Adam on s, then the bound."""
        super().advance(s, after)
        self.log_variance.clamp_(-self.bound, self.bound)

    def _factor(self, s: Signals) -> Tensor:
        return torch.where(s.gaussian, 0.5, 1.0)
