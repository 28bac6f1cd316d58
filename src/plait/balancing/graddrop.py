"""In every coordinate the tasks' gradients keep one sign, drawn by how much of them points there.

With S⁺, S⁻ [P] the sums of the positive and of the negative parts' sizes over tasks, the purity is
p = S⁺/(S⁺ + S⁻), and ½ where nothing points anywhere. One uniform U [P] serves all tasks: the
positive parts g⁺ are kept where p > U, the negative ones g⁻ where p < U. A leak ℓ_i lets that share
of a task's gradient through: d = Σ_i ℓ_i g_i + (1 − ℓ_i)(1[p > U] g_i⁺ + 1[p < U] g_i⁻), [P].

    >>> from plait.balancing.base import Signals
    >>> jacobian = torch.tensor([[1.0, 2.0, -1.0], [3.0, -2.0, -1.0]])
    >>> update = GradDrop()(Signals.of({"click": 0.3, "stars": 2.0}, jacobian=jacobian))
    >>> update[[0, 2]], abs(update[1])
    (tensor([ 4., -2.]), tensor(2.))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.checks import by_task, every
from plait.data.seeding import key
from plait.method import Card, Law, Need, Paper


@final
class GradDrop(Balancer):
    """Gradient sign dropout.

    ``leak`` lies between 0 (all dropped that can be) and 1 (the plain sum), one for all or one for
    each task.
    """

    card = Card(
        family="balancing",
        name="graddrop",
        summary="Keeps one randomly drawn sign of the gradients in every coordinate.",
        paper=Paper(
            title="Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout",
            authors="Chen, Zhao and Ngiam, Jiquan and Huang, Yanping and Luong, Thang and "
            "Kretzschmar, Henrik and Chai, Yuning and Anguelov, Dragomir",
            year=2020,
            venue="NeurIPS",
            url="https://arxiv.org/abs/2010.06808",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
        deviations=(
            "Acts on gradients of shared parameters; the paper's act on a shared activation.",
            "Heads receive their raw gradients.",
        ),
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"leak": "every"}
    rung = Rung.JACOBIAN
    weights_heads = False

    def __init__(self, *, leak: float | Mapping[str, float] = 0.0) -> None:
        if not all(0 <= share <= 1 for share in every(leak)):
            raise ValueError(f"leak must lie between 0 and 1, got {leak}")
        super().__init__()
        self.leak = leak

    def forward(self, s: Signals) -> Tensor:
        """The shared update d, [P]."""
        jacobian = s.jacobian
        assert jacobian is not None
        up, down = jacobian.clamp(min=0).sum(0), -jacobian.clamp(max=0).sum(0)
        size = up + down
        purity = torch.where(size > 0, up / size, 0.5)
        # Drawn on the CPU in float64: the same step on any device, process and precision.
        chance = torch.rand(
            len(purity),
            dtype=torch.float64,
            generator=torch.Generator().manual_seed(key("graddrop", s.seed, s.step)),
        ).to(purity)
        leak = by_task("leak", self.leak, s).to(jacobian)
        if leak.any():
            held = jacobian * (1 - leak)[:, None]
            up, down = held.clamp(min=0).sum(0), -held.clamp(max=0).sum(0)
        kept = torch.where(purity > chance, up, 0.0) - torch.where(purity < chance, down, 0.0)
        return leak @ jacobian + kept if leak.any() else kept
