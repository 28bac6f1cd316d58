"""The weights are drawn anew at every step: what a method must beat to have learnt anything.

α = softmax(z) [t] with z normal and independent, or α uniform on the simplex (``"dirichlet"``). So
Σ α = 1, and in the mean α_i = 1/t; ``total="tasks"`` multiplies by t, which makes the mean step
that of equal weights.

    >>> from plait.balancing.base import Signals
    >>> weights = Random()(Signals.of({"click": 0.3, "stars": 2.0}))
    >>> weights.sum().round(decimals=6)
    tensor(1., dtype=torch.float64)
"""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.method import Card, Law, Need, Paper


@final
class Random(Balancer):
    """Random loss weighting; ``distribution`` is ``"normal"`` or ``"dirichlet"``.

    ``total`` says what the weights sum to: ``"one"`` (paper) or the number of ``"tasks"``.
    """

    card = Card(
        family="balancing",
        name="random",
        summary="Weights drawn at random at every step.",
        paper=Paper(
            title="Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task "
            "Learning",
            authors="Lin, Baijiong and Ye, Feiyang and Zhang, Yu and Tsang, Ivor W.",
            year=2022,
            venue="TMLR",
            url="https://arxiv.org/abs/2111.10603",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
        deviations=(
            "A draw depends on seed, step and the task's name, whatever other tasks there are.",
        ),
    )
    rung = Rung.LOSSES
    blind = True

    def __init__(
        self,
        *,
        distribution: Literal["normal", "dirichlet"] = "normal",
        total: Literal["one", "tasks"] = "one",
    ) -> None:
        if distribution not in ("normal", "dirichlet"):
            raise ValueError(f"distribution must be normal or dirichlet, got {distribution!r}")
        if total not in ("one", "tasks"):
            raise ValueError(f"total must be 'one' or 'tasks', got {total!r}")
        super().__init__()
        self.distribution = distribution
        self.total = total

    def forward(self, s: Signals) -> Tensor:
        """α, [t]."""
        drawn = torch.from_numpy(s.noise()).clamp(min=2.0**-54).to(s.losses.device)
        if self.distribution == "normal":
            share: Tensor = torch.special.ndtri(drawn).softmax(0)
        else:
            share = -drawn.log() / -drawn.log().sum()
        return share * len(share) if self.total == "tasks" else share
