"""Any balancer, its update on the shared parameters no longer than a given length.

With the inner update d, of weights α [t] or itself [P]: d ← d·min(1, c/‖d‖). ‖d‖² = αᵀGα with the
Gramian G [t, t], so the length costs no second look at the gradients.

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> gram = torch.diag(torch.tensor([9.0, 16.0]))
    >>> Clip()(Signals.of({"click": 0.3, "stars": 2.0}, gram=gram))
    tensor([0.2000, 0.2000], dtype=torch.float64)
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals, Wrapper
from plait.method import Card, Law, Need


@final
class Clip(Wrapper):
    """A bound ``length`` c on the shared update, as the recipes of Nash-MTL, FAMO and others have.

    Where heads are weighted their gradients shrink by the same factor. Raises ``ValueError`` for a
    balancer whose gradients are not those of all shared parameters.
    """

    card = Card(
        family="balancing",
        name="clip",
        summary="Any balancer, with a bound on the length of the shared update.",
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "Those recipes clip the shared gradient alone; weighted heads shrink with it here.",
        ),
    )
    rung = Rung.GRAM
    blind = True

    def __init__(self, *, balancer: Balancer | str = "equal", length: float = 1.0) -> None:
        if not length > 0:
            raise ValueError(f"length must be positive, got {length}")
        super().__init__(balancer)
        if self.at != "shared":
            raise ValueError(
                f"{self.balancer.card.name} sees the last layer's gradients only, which do not "
                "tell the length of the update"
            )
        self.length = length

    def forward(self, s: Signals) -> Tensor:
        """The inner answer, shortened where it is too long."""
        answer: Tensor = self.balancer(s)
        size = self._square(answer.double(), s).clamp(min=0).sqrt()
        return answer * (self.length / size.clamp(min=self.length)).to(answer)

    def _square(self, answer: Tensor, s: Signals) -> Tensor:
        """‖d‖² of an answer of any shape."""
        if self.rung is Rung.JACOBIAN:
            return answer.square().sum()
        if answer.ndim == 1:
            assert s.gram is not None
            return answer @ s.gram.double() @ answer
        if self.by_layer:
            assert s.layers is not None
            return torch.einsum("gi,gij,gj->", answer, s.layers.double(), answer)
        assert s.samples is not None
        return torch.einsum("ai,abij,bj->", answer, s.samples.double(), answer)
