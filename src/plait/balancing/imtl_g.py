"""All task gradients have the same projection on the update.

With the unit gradients u_i = g_i/‖g_i‖ and d_i = ‖g_i‖: α = v/|Σv| with v = G⁺d, [t], so that
⟨Σ_j α_j g_j, u_i⟩ is the same for every i. The sum of the weights is one where it is positive.

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> gram = torch.tensor([[1.0, 0.5], [0.5, 9.0]])
    >>> IMTLG()(Signals.of({"click": 0.3, "stars": 2.0}, gram=gram))
    tensor([0.7500, 0.2500], dtype=torch.float64)
"""

from __future__ import annotations

from typing import final

import numpy as np

from plait.balancing.gramian import OnGramian, unit
from plait.linalg import Floats
from plait.method import Card, Law, Need, Paper


@final
class IMTLG(OnGramian):
    """Impartial multi-task learning, its gradient balance."""

    card = Card(
        family="balancing",
        name="imtl_g",
        summary="Equal projections of the update on every task gradient.",
        paper=Paper(
            title="Towards Impartial Multi-task Learning",
            authors="Liu, Liyang and Li, Yi and Kuang, Zhanghui and Xue, Jing-Hao and "
            "Chen, Yimin and Yang, Wenming and Liao, Qingmin and Zhang, Wayne",
            year=2021,
            venue="ICLR",
            url="https://openreview.net/forum?id=IMPnRXEWpvr",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
        deviations=(
            "Divided by |Σv|: where Σv < 0 the paper's form steps uphill for every task.",
            "A pseudo-inverse of the cosines where gradients are parallel.",
        ),
    )

    def weigh(self, gram: Floats) -> Floats:
        """α = v/|Σv|, [t]."""
        cosines, lengths = unit(gram)
        v = np.linalg.pinv(cosines, rcond=1e-10, hermitian=True).sum(1) / lengths
        total = abs(v.sum())
        return np.asarray(v / total if total > 0 else np.full(len(v), 1 / len(v)))
