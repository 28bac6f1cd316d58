"""The geometric mean of the losses: a task's scale changes the size of the step, not its way.

L = (Π_i L_i)^(1/t) over the t tasks present; α_i = L/(t L_i), [t], so that every α_i L_i is L/t. It
is computed from logarithms, because the product itself leaves the range of numbers soon.

    >>> from plait.balancing.base import Signals
    >>> GLS()(Signals.of({"click": 0.5, "stars": 2.0}))
    tensor([1.0000, 0.2500], dtype=torch.float64)
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.checks import FLOOR, not_negative
from plait.method import Card, Law, Need, Paper


@final
class GLS(Balancer):
    """Geometric loss strategy; ``ValueError`` names the task whose loss is negative."""

    card = Card(
        family="balancing",
        name="gls",
        summary="The geometric mean of the losses.",
        paper=Paper(
            title="MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for "
            "Multi-Task Learning",
            authors="Chennupati, Sumanth and Sistu, Ganesh and Yogamani, Senthil and "
            "Rawashdeh, Samir A.",
            year=2019,
            venue="CVPR Workshops",
            url="https://arxiv.org/abs/1904.08492",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
        deviations=(
            "A loss below 1e-8 is taken for 1e-8, where the paper's gradient is infinite.",
            "A preference multiplies the task's part of the gradient; in the loss it would cancel.",
        ),
    )
    rung = Rung.LOSSES

    def forward(self, s: Signals) -> Tensor:
        """α, [t]."""
        losses = not_negative("gls", "takes logarithms of", s, s.losses).clamp(min=FLOOR)
        return losses.log().mean().exp() / (len(losses) * losses)
