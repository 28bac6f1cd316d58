"""The mean gradient, projected onto what no task opposes.

α = argmin vᵀGv with v ≥ 1/t, [t]: Jᵀα is the projection of the mean gradient on {x : Jx ≥ 0}.

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> gram = torch.tensor([[1.0, -2.0], [-2.0, 8.0]])
    >>> DualProj()(Signals.of({"click": 0.3, "stars": 2.0}, gram=gram))
    tensor([1.0000, 0.5000], dtype=torch.float64)
"""

from __future__ import annotations

from typing import final

import numpy as np

from plait.balancing.gramian import OnGramian
from plait.linalg import Floats, cone_weights
from plait.method import Card, Law, Need, Paper


@final
class DualProj(OnGramian):
    """Projection on the dual cone, as in gradient episodic memory without its margin."""

    card = Card(
        family="balancing",
        name="dualproj",
        summary="The mean gradient, projected so that it opposes no task.",
        paper=Paper(
            title="Gradient Episodic Memory for Continual Learning",
            authors="Lopez-Paz, David and Ranzato, Marc'Aurelio",
            year=2017,
            venue="NeurIPS",
            url="https://arxiv.org/abs/1706.08840",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.NON_CONFLICTING, Law.ROWS}),
        deviations=(
            "The paper projects one task's gradient against remembered ones, with a margin.",
            "Here the mean gradient is projected against all of them, without a margin.",
        ),
    )

    def weigh(self, gram: Floats) -> Floats:
        """α, [t]."""
        return np.asarray(cone_weights(gram, np.full((1, len(gram)), 1 / len(gram)))[0])
