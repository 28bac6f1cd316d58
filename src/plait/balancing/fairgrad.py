"""α-fair gains: between the largest sum of the tasks' gains and the equal one.

The weights w [t] > 0 solve (G w)_i = w_i^(−1/p), p ≥ 0 being the paper's α: p = 1 is Nash-MTL, and
p → ∞ lowers all losses equally fast. Found by Newton's method on the cosines.

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> gram = torch.tensor([[1.0, 0.0], [0.0, 8.0]])
    >>> FairGrad()(Signals.of({"click": 0.3, "stars": 2.0}, gram=gram))
    tensor([1.0000, 0.2500], dtype=torch.float64)
"""

from __future__ import annotations

from typing import final

from plait.balancing.gramian import OnGramian, unit
from plait.linalg import Floats, proportional_fairness
from plait.method import Card, Law, Need, Paper


@final
class FairGrad(OnGramian):
    """Fair resource allocation in multi-task learning; ``fairness`` p (the authors' scripts: 2)."""

    card = Card(
        family="balancing",
        name="fairgrad",
        summary="Fair gains for all tasks, with a chosen degree of fairness.",
        paper=Paper(
            title="Fair Resource Allocation in Multi-Task Learning",
            authors="Ban, Hao and Ji, Kaiyi",
            year=2024,
            venue="ICML",
            url="https://arxiv.org/abs/2402.15638",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.NON_CONFLICTING, Law.ROWS}),
        deviations=(
            "Where a mixture of the gradients vanishes, the weights are those of like gradients.",
            "Solved as one convex problem by Newton's method, not by bounded least squares.",
            "The authors' code multiplies the update by the number of tasks and clips it to 1.",
        ),
    )

    def __init__(self, *, fairness: float = 2.0) -> None:
        if not fairness > 0:
            raise ValueError(f"fairness must be positive, got {fairness}")
        super().__init__()
        self.fairness = fairness

    def weigh(self, gram: Floats) -> Floats:
        """w, [t]; on the cosines C: (C a)_i = d_i^(1/p − 1) a_i^(−1/p) with a = d∘w."""
        cosines, lengths = unit(gram)
        power = 1 / self.fairness
        return proportional_fairness(cosines, lengths ** (power - 1), power) / lengths
