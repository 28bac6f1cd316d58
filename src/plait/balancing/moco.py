"""Task gradients are averaged over steps before they are compared, which takes their noise away.

With J [t, P] the task gradients of the step, Y ← Y + β(J − Y) from Y = 0, and w [t] on the simplex
takes a projected step towards the shortest combination, w ← Π(w − γ(Y Yᵀw + ρw)); the update is
Yᵀw, [P].

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> s = Signals.of({"click": 0.3, "stars": 2.0}, jacobian=torch.diag(torch.tensor([1.0, 2.0])))
    >>> balancer = MoCo()
    >>> balancer.bind(s.tasks)
    >>> for step in range(300):
    ...     balancer.advance(s)
    >>> balancer(s).round(decimals=2)
    tensor([0.7900, 0.4200])
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from plait.balancing.base import Rung, Signals
from plait.balancing.gramian import Mixture
from plait.linalg import Floats, simplex_projection
from plait.method import Card, Law, Need, Paper


@final
class MoCo(Mixture):
    """Gradient correction by momentum; ``tracking`` β, ``rate`` γ and ``ridge`` ρ.

    Holds one gradient for each task.
    """

    card = Card(
        family="balancing",
        name="moco",
        summary="Near the shortest combination of task gradients averaged over steps.",
        paper=Paper(
            title="Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent "
            "Approach",
            authors="Fernando, Heshan and Shen, Han and Liu, Miao and Chaudhury, Subhajit and "
            "Murugesan, Keerthiram and Chen, Tianyi",
            year=2023,
            venue="ICLR",
            url="https://openreview.net/forum?id=dLAYGdKTi2",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "The authors' option to normalise the rows of Y is left out.",
            "w lives on the tasks present, and an absent task's gradient stays as it was.",
            "Heads receive their raw gradients.",
        ),
    )
    rung = Rung.JACOBIAN
    vectors: ClassVar = {"tracked": 0.0}

    def __init__(self, *, tracking: float = 0.1, rate: float = 0.1, ridge: float = 0.1) -> None:
        if not 0 < tracking <= 1:
            raise ValueError(f"tracking must lie in (0, 1], got {tracking}")
        if not (rate >= 0 and ridge >= 0):
            raise ValueError(f"rate and ridge must not be negative, got {rate} and {ridge}")
        super().__init__()
        self.tracking = tracking
        self.rate = rate
        self.ridge = ridge

    def forward(self, s: Signals) -> Tensor:
        """The shared update Yᵀw, [P]."""
        tracked = self._tracked(s)
        return torch.from_numpy(self._after(s, tracked)).to(tracked) @ tracked

    def moved(self, s: Signals) -> Floats:
        """The mixture w after this step, [t]."""
        return self._after(s, self._tracked(s))

    @torch.no_grad()
    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        """Carry w and Y on."""
        super().advance(s, after)
        self.remember("tracked", s, self._tracked(s))

    def _tracked(self, s: Signals) -> Tensor:
        """Y with this step's gradients in it, [t, P]."""
        assert s.jacobian is not None
        old = self.recall("tracked", s, s.jacobian.shape[1]).to(s.jacobian)
        return old.lerp(s.jacobian, self.tracking)

    def _after(self, s: Signals, tracked: Tensor) -> Floats:
        held = self.held(s)
        wide = tracked.to(torch.promote_types(tracked.dtype, torch.float32))
        products = (wide @ wide.T).double().cpu().numpy()
        slope = products @ held + self.ridge * held
        return simplex_projection(held - self.rate * slope)
