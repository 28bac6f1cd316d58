"""A task whose loss fell less than the others' over the last two windows weighs more.

With L̄_i(e) the mean loss of task i over its labels in window e and r_i = L̄_i(e−1)/L̄_i(e−2):
α = t·softmax(r/τ), [t]. Before two windows have passed every weight is 1.

    >>> from plait.balancing.base import Signals
    >>> balancer = DWA(window=1)
    >>> balancer.bind(["click", "stars"])
    >>> for step, click in enumerate([1.0, 0.5]):
    ...     balancer.advance(Signals.of({"click": click, "stars": 2.0}, step=step))
    >>> balancer(Signals.of({"click": 0.4, "stars": 2.0}, step=2)).round(decimals=4)
    tensor([0.8756, 1.1244], dtype=torch.float64)
"""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.checks import not_negative
from plait.method import Card, Law, Need, Paper


@final
class DWA(Balancer):
    """Dynamic weight average; ``window`` steps are what the paper calls an epoch.

    ``temperature`` τ: the larger, the more even the weights. Raises ``ValueError`` naming the task
    whose loss is negative.
    """

    card = Card(
        family="balancing",
        name="dwa",
        summary="More weight for the losses that fell least from window to window.",
        paper=Paper(
            title="End-to-End Multi-Task Learning with Attention",
            authors="Liu, Shikun and Johns, Edward and Davison, Andrew J.",
            year=2019,
            venue="CVPR",
            url="https://arxiv.org/abs/1803.10704",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
        deviations=(
            "Windows of a given number of steps in place of epochs; means are over labels.",
            "A task that was absent from one of the two windows has the weight 1.",
        ),
    )
    rung = Rung.LOSSES
    blind = True
    # The window being summed, its Σ labels·loss and Σ labels, and the means of the two before it.
    memory: ClassVar = {
        "current": -1.0,
        "total": 0.0,
        "labels": 0.0,
        "last": math.nan,
        "before": math.nan,
    }

    def __init__(self, *, temperature: float = 2.0, window: int = 100) -> None:
        if not (temperature > 0 and window >= 1):
            raise ValueError(
                f"temperature must be positive and window at least 1, got {temperature}, {window}"
            )
        super().__init__()
        self.temperature = temperature
        self.window = window

    def forward(self, s: Signals) -> Tensor:
        """α, [t]."""
        state = self._now(s)
        ratio = state["last"] / state["before"]
        known = ratio.isfinite()
        shares = torch.where(known, ratio / self.temperature, -math.inf).softmax(0)
        return torch.where(known, shares * known.sum(), 1.0)

    @torch.no_grad()
    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        """Add the step's losses to the window."""
        super().advance(s, after)
        losses = not_negative("dwa", "divides by", s, s.losses)
        state = self._now(s)
        state["total"] += losses * s.counts
        state["labels"] += s.counts
        for name, value in state.items():
            self.remember(name, s, value)

    def _now(self, s: Signals) -> dict[str, Tensor]:
        """The state [t] as it is in the window of this step: windows that ended are closed."""
        old = {name: self.recall(name, s) for name in self.memory}
        number = s.step // self.window
        gap = number - old["current"]
        here, next_one = gap == 0, gap == 1
        mean = old["total"] / old["labels"]
        return {
            "current": torch.full_like(gap, number),
            "total": torch.where(here, old["total"], 0.0),
            "labels": torch.where(here, old["labels"], 0.0),
            "last": torch.where(here, old["last"], torch.where(next_one, mean, math.nan)),
            "before": torch.where(
                here, old["before"], torch.where(next_one, old["last"], math.nan)
            ),
        }
