"""The mean of the task gradients, each projected onto the directions that no task opposes.

v_i = argmin vᵀGv with v ≥ u_i e_i, [t], u_i = 1/t: the weights of the projection of u_i g_i on the
cone {x : Jx ≥ 0}. The weights are α = Σ_i v_i.

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> gram = torch.tensor([[1.0, -0.5], [-0.5, 1.0]])
    >>> UPGrad()(Signals.of({"click": 0.3, "stars": 2.0}, gram=gram))
    tensor([0.7500, 0.7500], dtype=torch.float64)
"""

from __future__ import annotations

from typing import Literal, final

import numpy as np

from plait.balancing.gramian import OnGramian
from plait.linalg import Floats, cone_weights
from plait.method import Card, Law, Need, Paper


@final
class UPGrad(OnGramian):
    """Unconflicting projection of gradients; ``reduce`` is ``"mean"`` (paper) or ``"sum"``."""

    card = Card(
        family="balancing",
        name="upgrad",
        summary="The mean of the task gradients, each projected so that it opposes no task.",
        paper=Paper(
            title="Jacobian Descent for Multi-Objective Optimization",
            authors="Quinton, Pierre and Rey, Valérian",
            year=2024,
            venue="arXiv",
            url="https://arxiv.org/abs/2406.16232",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.NON_CONFLICTING, Law.ROWS}),
        deviations=("No ridge is added to the Gramian, so that nothing conflicts to rounding.",),
    )

    def __init__(self, *, reduce: Literal["mean", "sum"] = "mean") -> None:
        if reduce not in ("mean", "sum"):
            raise ValueError(f"reduce must be 'mean' or 'sum', got {reduce!r}")
        super().__init__()
        self.reduce = reduce

    def weigh(self, gram: Floats) -> Floats:
        """α = Σ_i v_i, [t]."""
        count = len(gram)
        share = 1 / count if self.reduce == "mean" else 1.0
        return np.asarray(cone_weights(gram, np.eye(count) * share).sum(0))
