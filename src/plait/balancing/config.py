"""An update at one positive angle to every task gradient, as long as their projections on it.

With the cosines C and lengths d [t]: v = C⁺1, u = Σ_i (v_i/d_i) g_i/√(1ᵀv), a unit vector, and the
update is ℓu with ℓ = Σ_i ⟨g_i, u⟩. With β = v/(d√(1ᵀv)): α = (1ᵀGβ) β, [t].

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> gram = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    >>> ConFIG()(Signals.of({"click": 0.3, "stars": 2.0}, gram=gram)).round(decimals=6)
    tensor([1., 1.], dtype=torch.float64)
"""

from __future__ import annotations

from typing import final

import numpy as np

from plait.balancing.gramian import OnGramian, unit
from plait.linalg import Floats
from plait.method import Card, Law, Need, Paper


@final
class ConFIG(OnGramian):
    """Conflict-free inverse gradients."""

    card = Card(
        family="balancing",
        name="config",
        summary="The same positive angle to every task gradient.",
        paper=Paper(
            title="ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks",
            authors="Liu, Qiang and Chu, Mengyu and Thuerey, Nils",
            year=2024,
            venue="ICLR 2025",
            url="https://arxiv.org/abs/2408.11104",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
        deviations=("The momentum form (M-ConFIG) is not part.",),
    )

    def weigh(self, gram: Floats) -> Floats:
        """α = (1ᵀGβ) β, [t]."""
        cosines, lengths = unit(gram)
        v = np.linalg.pinv(cosines, rcond=1e-10, hermitian=True).sum(1)
        beta = v / lengths / np.sqrt(max(v.sum(), np.finfo(float).tiny))
        return np.asarray((gram @ beta).sum() * beta)
