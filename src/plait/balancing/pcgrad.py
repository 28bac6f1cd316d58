"""Where two task gradients conflict, each is projected onto the other's normal plane.

For each task i, start from g_i [P]; for every j ≠ i in random order, while ⟨v, g_j⟩ < 0 for the
running vector v, v ← v − ⟨v, g_j⟩/‖g_j‖² g_j, with the original g_j. The update is Σ_i v_i.

Every v_i is a combination of the rows of the Jacobian, so coefficients C [t, t] and products
M = C G [t, t] with the Gramian G are enough. All rows move together: at turn k row i meets task
j_i = order[i, k], q_i = min(M[i, j_i], 0)/G[j_i, j_i], C[i, j_i] −= q_i, M[i] −= q_i G[j_i].
The weights are α = Σ_i C[i].

    >>> from plait.balancing.base import Signals
    >>> gram = torch.tensor([[1.0, -0.5], [-0.5, 1.0]])
    >>> PCGrad()(Signals.of({"click": 0.3, "stars": 2.0}, gram=gram))
    tensor([1.5000, 1.5000], dtype=torch.float64)
"""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.gramian import others_in_random_order
from plait.method import Card, Law, Need, Paper


@final
class PCGrad(Balancer):
    """Projected conflicting gradients; ``reduce`` says whether the projections are added (paper) or
    averaged (several codes), a factor t in the size of the step.
    """

    card = Card(
        family="balancing",
        name="pcgrad",
        summary="Projects conflicting gradients onto each other's normal planes.",
        paper=Paper(
            title="Gradient Surgery for Multi-Task Learning",
            authors="Yu, Tianhe and Kumar, Saurabh and Gupta, Abhishek and Levine, Sergey and "
            "Hausman, Karol and Finn, Chelsea",
            year=2020,
            venue="NeurIPS",
            url="https://arxiv.org/abs/2001.06782",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
        deviations=(
            "The order is drawn anew at every step; the authors' code discards its shuffle.",
            "Heads receive their raw gradients, as in the authors' code.",
        ),
    )
    rung = Rung.GRAM
    weights_heads = False

    def __init__(self, *, reduce: Literal["sum", "mean"] = "sum") -> None:
        if reduce not in ("sum", "mean"):
            raise ValueError(f"reduce must be 'sum' or 'mean', got {reduce!r}")
        super().__init__()
        self.reduce = reduce

    def forward(self, s: Signals) -> Tensor:
        """α = Σ_i C[i], [t]."""
        assert s.gram is not None
        gram = s.gram.double().cpu().numpy()
        count = len(gram)
        squares = np.where(gram.diagonal() > 0, gram.diagonal(), 1.0)
        every = np.arange(count)
        coefficients, products = np.eye(count), gram.copy()
        for others in others_in_random_order(s).T if (gram < 0).any() else ():
            excess = np.minimum(products[every, others], 0.0) / squares[others]
            coefficients[every, others] -= excess
            products -= excess[:, None] * gram[others]
        total = coefficients.sum(0)
        return torch.from_numpy(total if self.reduce == "sum" else total / count).to(s.gram.device)
