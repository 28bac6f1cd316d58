"""Any method on the Gramian, asked for each layer by itself.

Layer l has a Gramian G_l [t, t] of its own, and weights α_l = A(G_l) [t] from the inner balancer A:
the update of its parameters is Σ_i α_li g_i. Gradients that conflict in one layer and agree in
another are then treated each in its own way.

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> layers = torch.tensor([[[1.0, -0.5], [-0.5, 1.0]], [[1.0, 0.5], [0.5, 1.0]]])
    >>> s = Signals.of({"click": 0.3, "stars": 2.0}, gram=layers.sum(0), layers=layers)
    >>> PerLayer()(s)
    tensor([[1.5000, 1.5000],
            [1.0000, 1.0000]], dtype=torch.float64)
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals, Wrapper
from plait.method import Card, Law, Need


@final
class PerLayer(Wrapper):
    """A balancer for every shared layer; a layer is a weight matrix and the vectors after it.

    What is drawn at random is drawn alike for all layers, and heads receive their raw gradients.
    Raises ``ValueError`` for a balancer that sees no Gramian, or that remembers more than one step
    (what it learns would be of all layers together).
    """

    card = Card(
        family="balancing",
        name="per_layer",
        summary="A method on the Gramian, for each shared layer by itself.",
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
    )
    rung = Rung.GRAM
    by_layer = True
    weights_heads = False
    blind = True

    def __init__(self, *, balancer: Balancer | str = "pcgrad") -> None:
        super().__init__(balancer)
        name = self.balancer.card.name
        if self.balancer.rung is not Rung.GRAM or self.samples > 1 or self.at != "shared":
            raise ValueError(
                f"{name} cannot be asked for each layer: it must see the products of the task "
                "gradients on all shared parameters, and no more"
            )
        if any(part.fills() for part in self.modules() if isinstance(part, Balancer)):
            raise ValueError(f"{name} carries a state, which is not kept for each layer")

    def forward(self, s: Signals) -> Tensor:
        """α, [g, t]."""
        assert s.layers is not None
        return torch.stack([self.balancer(self._seen(s, gram)) for gram in s.layers])

    def _seen(self, s: Signals, gram: Tensor) -> Signals:
        """The step as one layer sees it, no more of it than the inner balancer asks for."""
        return Signals(
            tasks=s.tasks,
            losses=s.losses,
            counts=s.counts,
            preferences=s.preferences,
            gaussian=s.gaussian,
            step=s.step,
            seed=s.seed,
            validation=s.validation if self.needs_validation else None,
            gram=gram,
        )
