"""Weights are learnt that bring the tasks' gradient norms to one size, larger for slow tasks.

On the last shared layer n_i = ‖∇L_i‖ and G_i = w_i n_i, [t]. With r_i = (L_i/L_i(0)) over its mean,
the inverse training rate, the target is C_i = mean_j(G_j) r_i^a, held constant, and w takes a step
of Adam on Σ_i |w_i n_i − C_i|, whose gradient is n_i sign(w_i n_i − C_i); then w is clamped to
``floor`` and scaled so that Σ w = t. The network descends Σ_i w_i L_i.

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> balancer = GradNorm(alpha=0.0, rate=0.1)
    >>> balancer.bind(["click", "stars"])
    >>> s = Signals.of({"click": 0.3, "stars": 2.0}, gram=torch.diag(torch.tensor([1.0, 9.0])))
    >>> for step in range(100):
    ...     balancer.advance(s)
    >>> balancer(s).round(decimals=1)
    tensor([1.5000, 0.5000], dtype=torch.float64)
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.checks import FLOOR, not_negative
from plait.method import Card, Law, Need, Paper


@final
class GradNorm(Balancer):
    """Gradient normalisation; ``alpha`` a is the pull towards slow tasks.

    ``rate`` of Adam on w. L(0) is the mean over the first ``start`` steps of the task. Raises
    ``ValueError`` naming the task whose loss is negative.
    """

    card = Card(
        family="balancing",
        name="gradnorm",
        summary="Learnt weights that make gradient norms equal, up to the tasks' pace.",
        paper=Paper(
            title="GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask "
            "Networks",
            authors="Chen, Zhao and Badrinarayanan, Vijay and Lee, Chen-Yu and Rabinovich, Andrew",
            year=2018,
            venue="ICML",
            url="https://arxiv.org/abs/1711.02257",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
        deviations=(
            "w has an Adam of its own and stays above a floor; the paper names no rule.",
            "The norms are taken without the user's preferences, which multiply w afterwards.",
            "w is scaled over the tasks present, which share what they hold.",
        ),
    )
    rung = Rung.GRAM
    at = "last"
    blind = True
    memory: ClassVar = {"weight": 1.0, "first": 0.0, "seen": 0.0}
    learns = "weight"
    weight: Tensor

    def __init__(
        self, *, alpha: float = 1.5, rate: float = 0.025, start: int = 1, floor: float = 1e-3
    ) -> None:
        if not (rate > 0 and alpha >= 0):
            raise ValueError(f"rate must be positive and alpha not negative: {rate}, {alpha}")
        if not (start >= 1 and 0 < floor < 1):
            raise ValueError(f"start must be at least 1 and floor in (0, 1): {start}, {floor}")
        super().__init__()
        self.alpha = alpha
        self.rate = rate
        self.start = start
        self.floor = floor

    def forward(self, s: Signals) -> Tensor:
        """w, [t]."""
        held = self.recall("weight", s)
        return held * (len(held) / held.sum())

    def objective(self, learnt: Tensor, s: Signals, after: Tensor | None) -> Tensor:
        """Σ |w n − C|, a scalar."""
        del after
        assert s.gram is not None
        squares = s.gram.diagonal().double().clamp(min=0)
        norms = squares.sqrt() / s.preferences.double()
        weighed = learnt * (len(learnt) / learnt.detach().sum()) * norms
        pace = self._losses(s) / self._first(s)
        target = weighed.detach().mean() * (pace / pace.mean()) ** self.alpha
        gap = weighed - target
        # At the kink the subgradient is 0; rounding would give it a sign there, and Adam a size.
        settled = gap.detach().abs() <= 8 * torch.finfo(s.gram.dtype).eps * target
        return gap.abs().masked_fill(settled, 0.0).sum()

    @torch.no_grad()
    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        """One step of Adam on w, then its floor and its sum; L(0) while it is being made."""
        held = self.recall("weight", s).sum()
        super().advance(s, after)
        moved = self.recall("weight", s).clamp(min=self.floor)
        self.remember("weight", s, moved * (held / moved.sum()))
        self.remember("first", s, self._first(s))
        self.remember("seen", s, self.recall("seen", s) + 1)

    def _first(self, s: Signals) -> Tensor:
        """L(0) [t], this step's loss counted in where it belongs to the start."""
        first, seen = self.recall("first", s), self.recall("seen", s)
        mean = first + (self._losses(s) - first) / (seen + 1)
        return torch.where(seen < self.start, mean, first)

    def _losses(self, s: Signals) -> Tensor:
        return not_negative("gradnorm", "divides by", s, s.losses).clamp(min=FLOOR)
