"""The Nash bargaining solution: the product of the tasks' gains is the largest.

α [t] > 0 solves G α = 1/α element by element: the minimum of ½ αᵀGα − Σ log α_i, found by Newton's
method on the cosines, a = α∘d. The update has length √t whatever the losses' scales are, and
scaling one loss leaves it unchanged. The heads' losses are weighted too.

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> gram = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    >>> NashMTL()(Signals.of({"click": 0.3, "stars": 2.0}, gram=gram))
    tensor([1.0000, 0.5000], dtype=torch.float64)
"""

from __future__ import annotations

from typing import final

import numpy as np

from plait.balancing.gramian import OnGramian, unit
from plait.linalg import Floats, proportional_fairness
from plait.method import Card, Law, Need, Paper


@final
class NashMTL(OnGramian):
    """Multi-task learning as a bargaining game."""

    card = Card(
        family="balancing",
        name="nash_mtl",
        summary="The Nash bargaining solution between the tasks.",
        paper=Paper(
            title="Multi-Task Learning as a Bargaining Game",
            authors="Navon, Aviv and Shamsian, Aviv and Achituve, Idan and "
            "Maron, Haggai and Kawaguchi, Kenji and Chechik, Gal and Fetaya, Ethan",
            year=2022,
            venue="ICML",
            url="https://arxiv.org/abs/2202.01017",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset(
            {Law.PERMUTATION, Law.ABSENT, Law.LOSS_SCALE, Law.NON_CONFLICTING, Law.ROWS}
        ),
        deviations=(
            "Where a mixture of the gradients vanishes, the weights are those of like gradients.",
            "Solved as one convex problem by Newton's method, not by a sequence of programs.",
            "The published recipe also clips the shared gradient to length 1 (`clip`).",
        ),
    )
    weights_heads = True

    def weigh(self, gram: Floats) -> Floats:
        """α = a/d, [t]."""
        cosines, lengths = unit(gram)
        return proportional_fairness(cosines, np.ones(len(gram)), 1.0) / lengths
