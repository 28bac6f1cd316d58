"""All losses fall at one relative rate, learnt from how much each fell in the last step.

With z = softmax(w) [t] over the tasks present, D_i = L_i − m_i + ε and c = 1/Σ_j(z_j/D_j):
α_i = c z_i/D_i, so Σ_i α_i = 1 and the update is c ∇ Σ_i z_i log D_i. After the step the same
batch is looked at again: δ_i = log D_i − log D_i′, and w [T] takes a step of Adam on zᵀδ, whose
gradient is z∘(δ − zᵀδ), with γw added: a task that fell faster than the others loses weight.

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> balancer = Famo()
    >>> balancer.bind(["click", "stars"])
    >>> s = Signals.of({"click": 0.5, "stars": 2.0})
    >>> balancer(s).round(decimals=3)
    tensor([0.8000, 0.2000], dtype=torch.float64)
    >>> balancer.advance(s, after=torch.tensor([0.1, 2.0]))
    >>> balancer(s).round(decimals=3)
    tensor([0.7920, 0.2080], dtype=torch.float64)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.checks import by_task
from plait.method import Card, Law, Need, Paper

EPSILON = 1e-8


@final
class Famo(Balancer):
    """Fast adaptive multi-task optimisation.

    ``rate`` of Adam on w, ``decay`` γ, and ``minimum`` m, one number or one for each task, which
    the losses must stay above; ``ValueError`` names the task whose loss does not.
    """

    card = Card(
        family="balancing",
        name="famo",
        summary="Equal relative progress of all losses, from the losses alone.",
        paper=Paper(
            title="FAMO: Fast Adaptive Multitask Optimization",
            authors="Liu, Bo and Feng, Yihao and Stone, Peter and Liu, Qiang",
            year=2023,
            venue="NeurIPS",
            url="https://arxiv.org/abs/2306.03792",
        ),
        needs=frozenset({Need.BACKWARD, Need.SECOND_LOOK}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "The second look repeats the first's dropout mask and moves no running statistics.",
            "z is a softmax over the tasks present, and an absent task's w and moments stay.",
        ),
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"minimum": "every"}
    rung = Rung.LOSSES
    second_look = True
    memory: ClassVar = {"logits": 0.0}
    learns = "logits"
    logits: Tensor

    def __init__(
        self,
        *,
        rate: float = 0.025,
        decay: float = 0.001,
        minimum: float | Mapping[str, float] = 0.0,
    ) -> None:
        if not (rate > 0 and decay >= 0):
            raise ValueError(f"rate must be positive and decay not negative: {rate}, {decay}")
        super().__init__()
        self.rate = rate
        self.decay = decay
        self.minimum = minimum

    def forward(self, s: Signals) -> Tensor:
        """α = c z/D, [t]."""
        share = self.logits[self.rows(s)].softmax(0) / self._above(s, s.losses)
        return share / share.sum()

    def objective(self, learnt: Tensor, s: Signals, after: Tensor | None) -> Tensor | None:
        """zᵀδ, a scalar; None where the step was not looked at again or has run away."""
        if after is None or not after.isfinite().all():
            return None
        fall = self._above(s, s.losses).log() - self._above(s, after).log()
        return learnt.softmax(0) @ fall

    def _above(self, s: Signals, losses: Tensor) -> Tensor:
        minimum = by_task("minimum", self.minimum, s)
        height = losses.double() - minimum
        if (height < 0).any():
            place = int(height.argmin())
            raise ValueError(
                f"famo takes logarithms: the loss of task {s.tasks[place]!r} is below minimum="
                f"{float(minimum[place])}; give a lower minimum"
            )
        return height + EPSILON
