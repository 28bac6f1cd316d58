"""The shortest convex combination of the task gradients: no task opposes it.

α = argmin over the simplex of αᵀG̃α with G̃_ij = G_ij/(c_i c_j), [t]. c_i is one, the gradient's
length (``"l2"``), the loss (``"loss"``) or their product (``"loss+"``). The weights multiply the
losses as they are, the heads' included.

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> gram = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    >>> MGDA()(Signals.of({"click": 0.3, "stars": 2.0}, gram=gram))
    tensor([0.8000, 0.2000], dtype=torch.float64)
"""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from plait.balancing.base import Signals
from plait.balancing.gramian import OnGramian, clean
from plait.linalg import Floats, min_norm_point
from plait.method import Card, Law, Need, Paper


@final
class MGDA(OnGramian):
    """Multiple-gradient descent; ``normalise`` is ``"none"``, ``"l2"``, ``"loss"`` or ``"loss+"``.

    Raises ``ValueError`` naming the task whose loss is not positive where losses normalise.
    """

    card = Card(
        family="balancing",
        name="mgda",
        summary="The shortest convex combination of the task gradients.",
        paper=Paper(
            title="Multi-Task Learning as Multi-Objective Optimization",
            authors="Sener, Ozan and Koltun, Vladlen",
            year=2018,
            venue="NeurIPS",
            url="https://arxiv.org/abs/1810.04650",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS, Law.NON_CONFLICTING}),
        deviations=(
            "Solved exactly by an active set, not by a limited number of Frank-Wolfe steps.",
            "The form of the bound at the features is the engine's option, for any method.",
        ),
    )
    weights_heads = True

    def __init__(self, *, normalise: Literal["none", "l2", "loss", "loss+"] = "none") -> None:
        if normalise not in ("none", "l2", "loss", "loss+"):
            raise ValueError(f"normalise must be none, l2, loss or loss+, got {normalise!r}")
        super().__init__()
        self.normalise = normalise
        self.blind = not normalise.startswith("loss")

    def forward(self, s: Signals) -> Tensor:
        """α, [t]; zero for a task without a gradient."""
        assert s.gram is not None
        gram = clean(s.gram)
        size = self._size(gram, s)
        return torch.from_numpy(self.answer(gram / size[:, None] / size)).to(s.gram.device)

    def weigh(self, gram: Floats) -> Floats:
        """The min-norm point, [t]."""
        return min_norm_point(gram)

    def _size(self, gram: Floats, s: Signals) -> Floats:
        size = np.ones(len(gram))
        if self.normalise in ("l2", "loss+"):
            lengths = np.sqrt(gram.diagonal())
            size *= np.where(lengths > 0, lengths, 1.0)
        if self.normalise.startswith("loss"):
            losses = s.losses.double().cpu().numpy()
            if losses.min() <= 0:
                raise ValueError(
                    f"mgda divides by the losses: that of task {s.tasks[int(losses.argmin())]!r} "
                    'is not positive; use normalise="l2" or "none"'
                )
            size *= losses
        return size
