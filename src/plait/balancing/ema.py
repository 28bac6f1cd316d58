"""Any balancer's weights, averaged over steps: what is noisy from batch to batch is evened out.

ᾱ_i ← δᾱ_i + (1 − δ)α̂_i with the inner weights α̂ [t], from ᾱ = 0, and α_i = ᾱ_i/(1 − δ^k) after the
task's k-th step: a mean in which a step counts δ times the one after it.

    >>> from plait.balancing.base import Signals
    >>> balancer = Ema(balancer="gls", decay=0.5)
    >>> balancer.bind(["click", "stars"])
    >>> balancer.advance(Signals.of({"click": 0.5, "stars": 2.0}))
    >>> balancer(Signals.of({"click": 2.0, "stars": 2.0})).round(decimals=4)
    tensor([0.6667, 0.4167], dtype=torch.float64)
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals, Wrapper
from plait.method import Card, Law, Need


@final
class Ema(Wrapper):
    """A moving average of a balancer's weights; ``decay`` δ in [0, 1).

    Keeps the inner one's promises as far as its weights show them. Raises ``ValueError`` for a
    balancer that gives an update and no weights.
    """

    card = Card(
        family="balancing",
        name="ema",
        summary="A moving average of any balancer's weights.",
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=("Unlike cr_mogm: any rung that has weights, and an unbiased start.",),
    )
    blind = True
    memory: ClassVar = {"steps": 0.0}
    vectors: ClassVar = {"average": 0.0}

    def __init__(self, *, balancer: Balancer | str = "pcgrad", decay: float = 0.9) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        super().__init__(balancer)
        if self.balancer.rung is Rung.JACOBIAN:
            raise ValueError(
                f"{self.balancer.card.name} gives an update, and no weights that could be averaged"
            )
        self.decay = decay

    def forward(self, s: Signals) -> Tensor:
        """α [t], or as the inner one's: [g, t] for layers, [k, t] for parts of the batch."""
        average, steps = self._moved(s)
        return average.movedim(0, -1) / (1 - self.decay**steps)

    @torch.no_grad()
    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        """Carry the average on, then the inner balancer."""
        average, steps = self._moved(s)
        super().advance(s, after)
        self.remember("average", s, average)
        self.remember("steps", s, steps)

    def _moved(self, s: Signals) -> tuple[Tensor, Tensor]:
        """ᾱ [t, …] and k [t] with this step in them."""
        new = self.balancer(s).double().movedim(-1, 0)
        old = self.recall("average", s, *new.shape[1:]).to(new)
        return new.lerp(old, self.decay), self.recall("steps", s) + 1
