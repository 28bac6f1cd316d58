"""Any balancer of the Gramian, asked every few steps: between them its last weights are kept.

α(k) = α̂(k) at the steps k that ``steps`` divides, and wherever a task is present that has no weight
yet; at others α(k) is what each task was given last, and the step costs as much as the plain sum.

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> balancer = Every(balancer="pcgrad", steps=2)
    >>> balancer.bind(["click", "stars"])
    >>> s = Signals.of({"click": 0.3, "stars": 2.0}, gram=torch.tensor([[1.0, -0.5], [-0.5, 1.0]]))
    >>> balancer.advance(s)
    >>> balancer.asks(s.tasks, 1), balancer(Signals.of({"click": 0.2, "stars": 1.0}, step=1))
    (<Rung.LOSSES: 0>, tensor([1.5000, 1.5000], dtype=torch.float64))
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals, Wrapper
from plait.method import Card, Law, Need


@final
class Every(Wrapper):
    """Weights refreshed every ``steps`` steps.

    Weights that are kept are those of older gradients: where a method scales with the gradients'
    norms, so does what is kept. Raises ``ValueError`` for a balancer that does not weigh tasks by
    their Gramian, which would gain nothing.
    """

    card = Card(
        family="balancing",
        name="every",
        summary="Asks a balancer of the Gramian every few steps only.",
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
    )
    memory: ClassVar = {"kept": 0.0, "known": 0.0}

    def __init__(self, *, balancer: Balancer | str = "pcgrad", steps: int = 4) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        super().__init__(balancer)
        inner = self.balancer
        if inner.rung is not Rung.GRAM or inner.by_layer or inner.samples > 1:
            raise ValueError(
                f"{inner.card.name} does not give each task one weight from the Gramian of a batch"
            )
        self.steps = steps

    def forward(self, s: Signals) -> Tensor:
        """α [t], new or kept."""
        if self._due(s.tasks, s.step):
            weights: Tensor = self.balancer(s)
            return weights
        return self.recall("kept", s)

    def asks(self, tasks: tuple[str, ...], step: int) -> Rung:
        """The Gramian when it is time, the losses otherwise."""
        return self.balancer.asks(tasks, step) if self._due(tasks, step) else Rung.LOSSES

    @torch.no_grad()
    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        """Keep the weights of a step that was asked about."""
        due = self._due(s.tasks, s.step)
        Balancer.advance(self, s, after)
        if due:
            self.remember("kept", s, self.balancer(s))
            self.remember("known", s, torch.ones_like(s.losses))
            self.balancer.advance(s, after)

    def _due(self, tasks: tuple[str, ...], step: int) -> bool:
        known = dict(zip(self.tasks, self.known.tolist(), strict=True))
        return step % self.steps == 0 or not all(known.get(task) for task in tasks)

    known: Tensor
