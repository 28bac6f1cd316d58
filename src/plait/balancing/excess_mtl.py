"""A task far from its own best weighs more: the distance is read off its gradients' history.

S_i ← S_i + g_i² [P] and e_i = Σ_p g_ip²/√(S_ip + 1e-7), an estimate of the excess risk; e⁰_i is its
mean over the first ``warm_up`` steps, during which w stays. Then w_i ← w_i exp(η e_i/e⁰_i), scaled
so that Σ w = t, and the update is Σ_i w_i g_i, [P].

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> s = Signals.of({"click": 0.3, "stars": 2.0}, jacobian=torch.eye(2))
    >>> balancer = ExcessMTL(rate=1.0)
    >>> balancer.bind(s.tasks)
    >>> balancer.advance(s)
    >>> flat = Signals.of({"click": 0.3, "stars": 2.0}, jacobian=torch.tensor([[1, 0], [0, 0.1]]))
    >>> balancer(flat).round(decimals=2)
    tensor([1.3400, 0.0700])
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.method import Card, Law, Need, Paper


@final
class ExcessMTL(Balancer):
    """Robust learning by excess risks; ``rate`` η.

    ``warm_up`` counts the steps in which the task is present. Holds one vector of squared
    gradients for each task.
    """

    card = Card(
        family="balancing",
        name="excess_mtl",
        summary="More weight for tasks far from their own optimum.",
        paper=Paper(
            title="Robust Multi-Task Learning with Excess Risks",
            authors="He, Yifei and Zhou, Shiji and Zhang, Guojun and Yun, Hyokun and Xu, Yi and "
            "Zeng, Belinda and Chilimbi, Trishul and Zhao, Han",
            year=2024,
            venue="ICML",
            url="https://arxiv.org/abs/2402.02009",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "e⁰ is that of the first step, as in the authors' code; the paper's is three epochs'.",
            "w is scaled over the tasks present, which share what they hold.",
            "Heads receive their raw gradients; the authors' are weighted.",
        ),
    )
    rung = Rung.JACOBIAN
    weights_heads = False
    blind = True
    memory: ClassVar = {"logits": 0.0, "base": 0.0, "seen": 0.0}
    vectors: ClassVar = {"squares": 0.0}

    def __init__(self, *, rate: float = 0.01, warm_up: int = 1) -> None:
        if not (rate > 0 and warm_up >= 1):
            raise ValueError(f"rate must be positive and warm_up at least 1: {rate}, {warm_up}")
        super().__init__()
        self.rate = rate
        self.warm_up = warm_up

    def forward(self, s: Signals) -> Tensor:
        """The shared update, [P]."""
        assert s.jacobian is not None
        logits, _, _ = self._moved(s)
        weights = logits.softmax(0) * len(logits)
        return weights.to(s.jacobian) @ s.jacobian

    @torch.no_grad()
    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        """Carry the weights, the history and e⁰ on."""
        super().advance(s, after)
        held = self.recall("logits", s).logsumexp(0)
        logits, base, squares = self._moved(s)
        self.remember("logits", s, logits - logits.logsumexp(0) + held)
        self.remember("base", s, base)
        self.remember("squares", s, squares)
        self.remember("seen", s, self.recall("seen", s) + 1)

    def _moved(self, s: Signals) -> tuple[Tensor, Tensor, Tensor]:
        """The logarithms of w [t] up to a constant, e⁰ [t] and S [t, P], this step in them."""
        assert s.jacobian is not None
        gradients = s.jacobian.to(torch.promote_types(s.jacobian.dtype, torch.float32))
        squares = self.recall("squares", s, gradients.shape[1]).to(gradients) + gradients.square()
        excess = (gradients.square() * (squares + 1e-7).rsqrt()).sum(1).double()
        base, seen = self.recall("base", s), self.recall("seen", s)
        early = seen < self.warm_up
        base = torch.where(early, base + (excess - base) / (seen + 1), base)
        rise = torch.where(early | (base == 0), 0.0, excess / base)
        return self.recall("logits", s) + self.rate * rise, base, squares
