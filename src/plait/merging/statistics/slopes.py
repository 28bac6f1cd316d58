"""How much the loss of single rows moves with every weight: mean magnitudes of gradients.

    a = 1/B Σ_rows |∂ loss/∂θ|

Magnitudes are taken row by row, before the mean, so that rows do not cancel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from plait.merging.bench import Bench, array
from plait.merging.pool import Array
from plait.merging.statistics.base import Statistic


@dataclass(frozen=True, kw_only=True)
class Slopes(Statistic):
    """The mean |∂ loss/∂θ| of every trainable tensor, in its shape, from the rows' labels."""

    name: ClassVar[str] = "slopes"

    def of(self, bench: Bench, task: str) -> Mapping[str, Array]:
        """A backward pass for every row."""
        rows = bench.chosen(task, self.rows, self.seed)
        totals: dict[str, Tensor] = {}
        for row in rows.tolist():
            one = np.array([row])
            for loss in bench.loss(task, one, bench.run(task, one)):
                for name, slope in bench.gradients(loss):
                    if name not in totals:
                        totals[name] = torch.zeros_like(slope)
                    totals[name] += slope.abs()
        return {name: array(total / len(rows)) for name, total in totals.items()}
