"""The diagonal of the Fisher information of every weight, from gradients of single rows.

    F = 1/B Σ_rows Σ_k (∂ a_kᵀ z/∂θ)²

with z the head's numbers for the row and Σ_k a_k a_kᵀ their Fisher information
(:func:`plait.merging.objectives.factors`): the exact expectation over labels. With
``labels="given"`` the rows' own stand in for it, (∂ loss/∂θ)²: the empirical Fisher information.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from plait.merging.bench import Bench, array
from plait.merging.objectives import factors
from plait.merging.pool import Array
from plait.merging.statistics.base import Statistic


@dataclass(frozen=True, kw_only=True)
class Diagonal(Statistic):
    """F of every trainable tensor, in its shape."""

    name: ClassVar[str] = "fisher"
    labels: Literal["expected", "given"] = "expected"

    def of(self, bench: Bench, task: str) -> Mapping[str, Array]:
        """A backward pass for every row and every a_k."""
        rows = bench.chosen(task, self.rows, self.seed)
        totals: dict[str, Tensor] = {}
        for row in rows.tolist():
            for value in self._values(bench, task, np.array([row])):
                for name, slope in bench.gradients(value):
                    if name not in totals:
                        totals[name] = torch.zeros_like(slope)
                    totals[name].addcmul_(slope, slope)
        return {name: array(total / len(rows)) for name, total in totals.items()}

    def _values(self, bench: Bench, task: str, row: Array) -> Iterator[Tensor]:
        seen = bench.run(task, row)
        if self.labels == "given":
            yield from bench.loss(task, row, seen)
        else:
            weighed = factors(bench.losses[task], seen.raw) * seen.raw.unsqueeze(1)
            yield from weighed.sum(2).flatten()
