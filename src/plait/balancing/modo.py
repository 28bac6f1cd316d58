"""Min-norm weights learnt from two independent parts of the batch, so that they are not biased.

w ← Π(w − γ(J₁J₂ᵀw + ρw)) on the simplex, one projected step a batch; the update is the mean of
J₁ᵀw and J₂ᵀw, [P].

    >>> from plait.balancing.base import Signals
    >>> gram = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    >>> balancer = MoDo()
    >>> balancer.bind(["click", "stars"])
    >>> s = Signals.of({"click": 0.3, "stars": 2.0}, gram=gram, samples=gram.expand(2, 2, 2, 2))
    >>> balancer(s).sum(0)
    tensor([0.5500, 0.4500], dtype=torch.float64)
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
class MoDo(Mixture):
    """Multi-objective descent with double sampling: ``rate`` γ and ``decay`` ρ of the weights."""

    card = Card(
        family="balancing",
        name="modo",
        summary="Min-norm weights from two independent samples.",
        paper=Paper(
            title="Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization "
            "and Conflict-Avoidance",
            authors="Chen, Lisha and Fernando, Heshan and Ying, Yiming and Chen, Tianyi",
            year=2023,
            venue="NeurIPS",
            url="https://arxiv.org/abs/2305.20057",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT}),
        deviations=("The mean over the two parts, as in the paper; the authors' code adds them.",),
    )
    samples = 2

    def __init__(self, *, rate: float = 0.1, decay: float = 0.1) -> None:
        if rate < 0 or decay < 0:
            raise ValueError(f"rate and decay must not be negative: {rate}, {decay}")
        super().__init__()
        self.rate = rate
        self.decay = decay

    def forward(self, s: Signals) -> Tensor:
        """w/2 on each part, [2, t]."""
        half = torch.from_numpy(self.moved(s) / 2).to(s.losses.device)
        return torch.stack([half, half])

    def moved(self, s: Signals) -> Floats:
        """W after a projected step, [t]."""
        assert s.samples is not None
        mix = self.held(s)
        slope = s.samples[0, 1].double().cpu().numpy() @ mix + self.decay * mix
        return np.asarray(simplex_projection(mix - self.rate * slope))
