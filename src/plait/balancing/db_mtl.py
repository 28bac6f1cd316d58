"""Log losses, and gradients of one length: every task pulls as hard as the strongest.

g_i = ∇log L_i [P] is averaged over steps, ĝ_i ← βĝ_i + (1 − β)g_i from ĝ = 0, and the update is
max_j‖ĝ_j‖ Σ_i ĝ_i/‖ĝ_i‖, [P]. Without memory (β = 0) the lengths are enough: with d_i = ‖∇L_i‖/L_i,
α_i = max_j d_j/(d_i L_i), [t].

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> gram = torch.diag(torch.tensor([1.0, 16.0]))
    >>> DBMTL(decay=0.0)(Signals.of({"click": 1.0, "stars": 2.0}, gram=gram)).round(decimals=3)
    tensor([2.0000, 0.5000], dtype=torch.float64)
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.checks import not_negative
from plait.method import Card, Law, Need, Paper

EPSILON = 1e-8


@final
class DBMTL(Balancer):
    """Dual-balancing; ``decay`` β of the gradients' average.

    With β > 0 it holds one gradient for each task. Raises ``ValueError`` naming the task whose loss
    is negative.
    """

    card = Card(
        family="balancing",
        name="db_mtl",
        summary="Log losses, with task gradients brought to one length.",
        paper=Paper(
            title="Dual-Balancing for Multi-Task Learning",
            authors="Lin, Baijiong and Jiang, Weisen and Ye, Feiyang and Zhang, Yu and "
            "Chen, Pengguang and Chen, Ying-Cong and Liu, Shu and Kwok, James T.",
            year=2023,
            venue="arXiv",
            url="https://arxiv.org/abs/2308.12029",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.LOSS_SCALE, Law.ROWS}),
        deviations=(
            "Heads receive the gradients of their losses; the authors' those of the log losses.",
            "A preference multiplies the task's part of the sum; in the loss it would cancel.",
            "β is constant; the paper also tries one that falls with the step.",
        ),
    )
    weights_heads = False
    vectors: ClassVar = {"average": 0.0}

    def __init__(self, *, decay: float = 0.9) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        super().__init__()
        self.decay = decay
        self.rung = Rung.JACOBIAN if decay else Rung.GRAM

    def forward(self, s: Signals) -> Tensor:
        """The shared update [P]; without memory α [t]."""
        if self.rung is Rung.JACOBIAN:
            average = self._average(s)
            lengths = average.double().norm(dim=1)
            return (self._even(s, lengths)).to(average) @ average
        assert s.gram is not None
        factors = self._factors(s)
        return self._even(s, s.gram.diagonal().double().clamp(min=0).sqrt() * factors) * factors

    @torch.no_grad()
    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        """Carry the average on."""
        super().advance(s, after)
        if self.rung is Rung.JACOBIAN:
            self.remember("average", s, self._average(s))

    def _even(self, s: Signals, lengths: Tensor) -> Tensor:
        """max_j‖ĝ_j‖/‖ĝ_i‖ times the preference, [t]."""
        return lengths.max() / (lengths + EPSILON) * s.preferences

    def _factors(self, s: Signals) -> Tensor:
        """What makes a gradient that of the log loss without the preference, [t]."""
        losses = not_negative("db_mtl", "takes logarithms of", s, s.losses)
        return 1 / ((losses + EPSILON) * s.preferences)

    def _average(self, s: Signals) -> Tensor:
        """ĝ with this step in it, [t, P]."""
        assert s.jacobian is not None
        gradients = s.jacobian * self._factors(s).to(s.jacobian)[:, None]
        old = self.recall("average", s, s.jacobian.shape[1]).to(gradients)
        return gradients.lerp(old, self.decay)
