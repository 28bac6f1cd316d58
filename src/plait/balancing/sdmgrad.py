"""A direction near the mean gradient that no task opposes, from independent parts of the batch.

With A = J₁J₂ᵀ [t, t] over the squared mean of √diag: ``steps`` projected steps with momentum ½ of
w ← Π(w − η A(w + λb)) on the simplex, b = 1/t, from the w that is carried; then
α = (w + λb)/(1 + λ), [t], on a third part.

    >>> from plait.balancing.base import Signals
    >>> gram = torch.eye(2)
    >>> balancer = SDMGrad()
    >>> balancer.bind(["click", "stars"])
    >>> s = Signals.of({"click": 0.3, "stars": 2.0}, gram=gram, samples=gram.expand(3, 3, 2, 2))
    >>> balancer(s)[2]
    tensor([0.5000, 0.5000], dtype=torch.float64)
"""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from torch import Tensor

from plait.balancing.base import Signals
from plait.balancing.gramian import Mixture
from plait.linalg import Floats, simplex_projection
from plait.method import Card, Law, Need, Paper


@final
class SDMGrad(Mixture):
    """Stochastic direction-oriented descent: ``regular`` λ, ``rate`` η and ``steps`` on w."""

    card = Card(
        family="balancing",
        name="sdmgrad",
        summary="An unbiased common descent direction near the mean gradient.",
        paper=Paper(
            title="Direction-oriented Multi-objective Learning: Simple and Provable Stochastic "
            "Algorithms",
            authors="Xiao, Peiyao and Ban, Hao and Ji, Kaiyi",
            year=2023,
            venue="NeurIPS",
            url="https://arxiv.org/abs/2305.18409",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE}),
        deviations=(
            "Three independent parts, as in the paper; in the authors' code all three are one.",
            "The authors' rate is 10, at which the steps jump between corners of the simplex.",
            "The authors' code multiplies the update by the number of tasks and clips it to 1.",
        ),
    )
    samples = 3

    def __init__(self, *, regular: float = 0.3, rate: float = 0.3, steps: int = 20) -> None:
        if regular < 0 or not rate > 0 or steps < 0:
            raise ValueError(f"regular and steps must be ≥ 0, rate > 0: {regular}, {steps}, {rate}")
        super().__init__()
        self.regular = regular
        self.rate = rate
        self.steps = steps

    def forward(self, s: Signals) -> Tensor:
        """α on the third part, nothing on the others: [3, t]."""
        count = len(s.tasks)
        weights = np.zeros((3, count))
        weights[2] = (self.moved(s) + self.regular / count) / (1 + self.regular)
        return torch.from_numpy(weights).to(s.losses.device)

    def moved(self, s: Signals) -> Floats:
        """W after the inner steps, [t]."""
        assert s.samples is not None
        cross = s.samples[0, 1].double().cpu().numpy()
        size = np.sqrt(np.maximum(cross.diagonal(), 0.0)).mean()
        mix, count = self.held(s), len(cross)
        cross = cross / size**2 if size > 0 else np.zeros_like(cross)
        speed = np.zeros(count)
        for _ in range(self.steps):
            speed = 0.5 * speed + cross @ (mix + self.regular / count)
            mix = simplex_projection(mix - self.rate * speed)
        return mix
