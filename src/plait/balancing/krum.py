"""The task gradients that lie nearest to their neighbours are averaged; outliers are left out.

With D²_ij = G_ii + G_jj − 2G_ij, a task's score is the sum of its t − f − 2 smallest D²_ij, j ≠ i;
the m tasks with the lowest scores get the weight 1/m, [t]. Ties go to the first name.

    >>> from plait.balancing.base import Signals
    >>> rows = torch.tensor([[1.0], [1.1], [1.2], [-50.0]])
    >>> losses = dict.fromkeys(["a", "b", "c", "d"], 1.0)
    >>> Krum(outliers=0)(Signals.of(losses, gram=rows @ rows.T))
    tensor([0., 1., 0., 0.], dtype=torch.float64)
"""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.gramian import clean
from plait.method import Card, Law, Need, Paper


@final
class Krum(Balancer):
    """Multi-Krum: ``outliers`` f to withstand and ``keep`` m to average."""

    card = Card(
        family="balancing",
        name="krum",
        summary="Averages the task gradients nearest to their neighbours.",
        paper=Paper(
            title="Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
            authors="Blanchard, Peva and El Mhamdi, El Mahdi and Guerraoui, Rachid and "
            "Stainer, Julien",
            year=2017,
            venue="NeurIPS",
            url="https://arxiv.org/abs/1703.02757",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
        deviations=(
            "Withstands fewer outliers in a step with fewer than f + 3 tasks.",
            "Squared distances, as in the paper; torchjd adds plain ones.",
        ),
        exceptions={"descends": "one task's gradient is followed at a time, whatever the sum does"},
    )
    rung = Rung.GRAM
    weights_heads = False
    blind = True

    def __init__(self, *, outliers: int = 1, keep: int = 1) -> None:
        if outliers < 0 or keep < 1:
            raise ValueError(f"outliers must be 0 or more and keep 1 or more: {outliers}, {keep}")
        super().__init__()
        self.outliers = outliers
        self.keep = keep

    def forward(self, s: Signals) -> Tensor:
        """α, [t]."""
        assert s.gram is not None
        gram, count = clean(s.gram), len(s.tasks)
        squares = gram.diagonal()
        apart = np.maximum(squares[:, None] + squares - 2 * gram, 0.0)
        np.fill_diagonal(apart, np.inf)  # a task is not its own neighbour
        near = max(count - 2 - min(self.outliers, max(count - 3, 0)), 0)
        score = np.sort(apart, 1)[:, :near].sum(1)
        score = np.round(score / max(score.max(), np.finfo(float).tiny), 9)  # a tie to rounding
        order = sorted(range(count), key=lambda i: (score[i], s.tasks[i]))
        weights = np.zeros(count)
        kept = min(self.keep, count)
        weights[order[:kept]] = 1 / kept
        return torch.from_numpy(weights).to(s.gram.device)
