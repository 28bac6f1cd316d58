"""Every task counts the same, or every label does: the two ends of unequal amounts of data.

L_i is a mean over the task's labels in the step, c_i [t] their number (the sum of their weights).
``per="task"``: α_i = 1/t, the mean of the tasks' means. ``per="label"``: α_i = c_i/Σ_j c_j, the
mean over all labels. With preferences p it is Σ_i p_i c_i L_i/Σ_i p_i c_i (c = 1 per task).

For texts the paper has four cases. A record's loss is the mean over its tokens; where its weight
in the table is the number of its tokens these are case 3 (per task) and 1 (per label), where it is
one they are case 4 and 2.

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> s = Signals.of({"click": 0.3, "stars": 2.0}, counts=torch.tensor([30.0, 10.0]))
    >>> MFTCoder()(s), MFTCoder(per="label")(s)
    (tensor([0.5000, 0.5000], dtype=torch.float64), tensor([0.7500, 0.2500], dtype=torch.float64))
"""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.method import Card, Law, Need, Paper


@final
class MFTCoder(Balancer):
    """The mean over tasks or over labels; ``per`` is ``"task"`` or ``"label"``."""

    card = Card(
        family="balancing",
        name="mftcoder",
        summary="Means over tasks or over labels, however unequal their data.",
        paper=Paper(
            title="MFTCoder: Boosting Code LLMs with Multitask Fine-Tuning",
            authors="Liu, Bingchang and Chen, Chaoyu and Liao, Cong and Gong, Zi and Wang, Huan "
            "and Lei, Zhichao and Liang, Ming and Chen, Dajun and Shen, Min and Zhou, Hailian and "
            "Yu, Hang and Li, Jianguo",
            year=2023,
            venue="KDD",
            url="https://arxiv.org/abs/2311.02303",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
        deviations=(
            "The paper's focal factor is left out, as in the authors' code.",
            "Weights from validation losses are a method of their own, coba, as in that code.",
            "Sums and counts are the batch's; the authors' change with how it is cut.",
        ),
    )
    rung = Rung.LOSSES
    blind = True

    def __init__(self, *, per: Literal["task", "label"] = "task") -> None:
        if per not in ("task", "label"):
            raise ValueError(f"per must be 'task' or 'label', got {per!r}")
        super().__init__()
        self.per = per

    def forward(self, s: Signals) -> Tensor:
        """α, [t]; the engine multiplies the preferences in."""
        share = s.counts.double() if self.per == "label" else torch.ones_like(s.counts).double()
        return share / (share * s.preferences.double()).sum()
