"""The weights of any balancer, smoothed over steps so that they follow the batch's noise less.

w ← a w + (1 − a) ŵ, [t], with ŵ the answer of ``balancer``; w starts at the first ŵ of each task.

    >>> from plait.balancing.base import Signals
    >>> balancer = CRMOGM(smoothing=0.5)
    >>> balancer.bind(["click", "stars"])
    >>> calm, steep = torch.eye(2), torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    >>> balancer.advance(Signals.of({"click": 0.3, "stars": 2.0}, gram=calm))
    >>> balancer(Signals.of({"click": 0.3, "stars": 2.0}, gram=steep))
    tensor([0.3500, 0.6500], dtype=torch.float64)
"""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals, Wrapper
from plait.method import Card, Law, Need, Paper


@final
class CRMOGM(Wrapper):
    """Correlation-reduced multi-objective gradient manipulation around ``balancer``.

    ``smoothing`` a lies below one. Raises ``ValueError`` for a balancer that gives an update, or
    weights for layers or parts.
    """

    card = Card(
        family="balancing",
        name="cr_mogm",
        summary="Smooths the weights of another balancer over steps.",
        paper=Paper(
            title="On the Convergence of Stochastic Multi-Objective Gradient Manipulation and "
            "Beyond",
            authors="Zhou, Shiji and Zhang, Wenpeng and Jiang, Jiyan and Zhong, Wenliang and "
            "Gu, Jinjie and Zhu, Wenwu",
            year=2022,
            venue="NeurIPS",
            url="https://openreview.net/forum?id=ScwfQ7hdwyP",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "A constant smoothing; the paper's schedule grows as the learning rate falls.",
            "An absent task keeps its weight; the others are not renormalised.",
        ),
    )
    memory: ClassVar = {"smooth": math.nan}
    smooth: Tensor

    def __init__(self, *, balancer: Balancer | str = "mgda", smoothing: float = 0.9) -> None:
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be at least 0 and below 1, got {smoothing}")
        super().__init__(balancer)
        inner = self.balancer
        if inner.rung is Rung.JACOBIAN or inner.by_layer or inner.samples > 1:
            raise ValueError(f"cr_mogm smooths one weight for each task; {inner.card.name} has not")
        self.smoothing = smoothing

    def forward(self, s: Signals) -> Tensor:
        """w, [t]."""
        new: Tensor = self.balancer(s)
        old = self.recall("smooth", s).to(new)
        return torch.where(old.isnan(), new, self.smoothing * old + (1 - self.smoothing) * new)

    @torch.no_grad()
    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        """Move the smoothed weights."""
        smooth = self(s)
        super().advance(s, after)
        self.remember("smooth", s, smooth.double())
