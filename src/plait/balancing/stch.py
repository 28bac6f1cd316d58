"""A smooth maximum of the losses: the task that is worst off counts most.

``form="log"``: the losses in units of their reference n_i. Until a task has been seen ``warm_up``
times it counts by its log loss, α_i = 1/L_i; n_i is its mean loss over the last ``window`` of
them. The k tasks past that share kμ log Σ_i (L_i/n_i)^(1/μ), so α_i = k/L_i softmax(log(L/n)/μ)_i.

``form="linear"``: μ log Σ_i exp(λ_i (L_i − z_i)/μ) with λ_i = p_i/Σ_j p_j from the user's
preferences p [t] and the ideal point z; α = λ∘softmax(λ∘(L − z)/μ), [t]. As μ → 0 either form
follows the worst task alone.

    >>> from plait.balancing.base import Signals
    >>> STCH(form="linear", mu=0.5)(Signals.of({"click": 0.3, "stars": 2.3})).round(decimals=4)
    tensor([0.0596, 0.4404], dtype=torch.float64)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.checks import FLOOR, by_task, not_negative
from plait.method import Card, Law, Need, Paper


@final
class STCH(Balancer):
    """Smooth Tchebycheff scalarization; ``mu`` μ > 0, the smaller the nearer to the maximum.

    ``reference`` z, one number or one for each task, belongs to the linear form; ``warm_up`` and
    ``window`` (in steps in which the task is present) to the other, which raises ``ValueError``
    naming the task whose loss is negative.
    """

    card = Card(
        family="balancing",
        name="stch",
        summary="A smooth maximum of the losses.",
        paper=Paper(
            title="Smooth Tchebycheff Scalarization for Multi-Objective Optimization",
            authors="Lin, Xi and Zhang, Xiaoyuan and Yang, Zhiyuan and Liu, Fei and Wang, Zhenkun "
            "and Zhang, Qingfu",
            year=2024,
            venue="ICML",
            url="https://arxiv.org/abs/2402.19078",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.LOSS_SCALE, Law.ROWS}),
        deviations=(
            "The log form is that of the authors' code for several tasks, the linear the paper's.",
            "Warm-up and reference are counted in steps of the task; the authors count epochs.",
            "In the log form a preference multiplies the weight; in the loss it would cancel.",
            "In the log form a loss below 1e-8 is taken for 1e-8.",
        ),
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"reference": "every"}
    rung = Rung.LOSSES
    # Steps seen, and Σ labels·loss and Σ labels of the window that makes the reference.
    memory: ClassVar = {"seen": 0.0, "total": 0.0, "labels": 0.0}

    def __init__(
        self,
        *,
        form: Literal["log", "linear"] = "log",
        mu: float = 1.0,
        warm_up: int = 200,
        window: int = 50,
        reference: float | Mapping[str, float] = 0.0,
    ) -> None:
        if form not in ("log", "linear"):
            raise ValueError(f"form must be log or linear, got {form!r}")
        if not mu > 0:
            raise ValueError(f"mu must be positive, got {mu}")
        if not 1 <= window <= warm_up:
            raise ValueError(f"window must lie between 1 and warm_up={warm_up}, got {window}")
        super().__init__()
        self.form = form
        self.mu = mu
        self.warm_up = warm_up
        self.window = window
        self.reference = reference

    def forward(self, s: Signals) -> Tensor:
        """α, [t]; in the linear form without λ's numerator, which the engine multiplies in."""
        if self.form == "linear":
            share = s.preferences.double() / s.preferences.double().sum()
            height = s.losses.double() - by_task("reference", self.reference, s)
            return (share * height / self.mu).softmax(0) / s.preferences.double().sum()
        losses = self._losses(s)
        ready = self.recall("seen", s) >= self.warm_up
        reference = (self.recall("total", s) / self.recall("labels", s)).clamp(min=FLOOR)
        rise = torch.where(ready, (losses / reference).log() / self.mu, -math.inf)
        return torch.where(ready, rise.softmax(0) * ready.sum(), 1.0) / losses

    @torch.no_grad()
    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        """Count the step, and add its losses to the reference while it is being made."""
        super().advance(s, after)
        if self.form == "linear":
            return
        seen = self.recall("seen", s)
        labels = s.counts * ((seen >= self.warm_up - self.window) & (seen < self.warm_up))
        self.remember("total", s, self.recall("total", s) + self._losses(s) * labels)
        self.remember("labels", s, self.recall("labels", s) + labels)
        self.remember("seen", s, seen + 1)

    def _losses(self, s: Signals) -> Tensor:
        return not_negative("stch", "takes logarithms of", s, s.losses).clamp(min=FLOOR)
