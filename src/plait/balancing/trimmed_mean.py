"""In every coordinate the largest and the smallest gradients are left out of the mean.

With k = ⌊βt⌋ of the t tasks present: in each of the P coordinates sort the t values, drop the k
smallest and the k largest, and average the rest: the update, [P].

    >>> from plait.balancing.base import Signals
    >>> jacobian = torch.tensor([[1.0, 9.0], [2.0, 2.0], [90.0, 1.0]])
    >>> s = Signals.of({"click": 0.3, "stars": 2.0, "price": 1.0}, jacobian=jacobian)
    >>> TrimmedMean(trim=0.4)(s)
    tensor([2., 2.])
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.method import Card, Law, Need, Paper

CHUNK = 1 << 22  # numbers sorted at a time


@final
class TrimmedMean(Balancer):
    """The coordinate-wise trimmed mean; ``trim`` β in [0, ½) is the share cut at either end."""

    card = Card(
        family="balancing",
        name="trimmed_mean",
        summary="The mean gradient without its extremes, coordinate by coordinate.",
        paper=Paper(
            title="Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
            authors="Yin, Dong and Chen, Yudong and Ramchandran, Kannan and Bartlett, Peter",
            year=2018,
            venue="ICML",
            url="https://arxiv.org/abs/1803.01498",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
        deviations=(
            "Made for workers of which some lie; here the rows are tasks.",
            "βt is rounded down to whole tasks, so a few tasks may lose none.",
            "Heads receive their raw gradients.",
        ),
    )
    rung = Rung.JACOBIAN
    weights_heads = False
    blind = True

    def __init__(self, *, trim: float = 0.2) -> None:
        if not 0 <= trim < 0.5:
            raise ValueError(f"trim must lie in [0, 0.5), got {trim}")
        super().__init__()
        self.trim = trim

    def forward(self, s: Signals) -> Tensor:
        """The shared update, [P]."""
        assert s.jacobian is not None
        count = len(s.jacobian)
        cut = min(int(self.trim * count + 1e-9), (count - 1) // 2)
        if cut == 0:
            return s.jacobian.mean(0)
        chunks = torch.split(s.jacobian, max(CHUNK // count, 1), dim=1)
        return torch.cat([chunk.sort(0).values[cut : count - cut].mean(0) for chunk in chunks])
