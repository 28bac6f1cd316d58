"""Gram matrices of the gradients that come back to a network's linear layers and convolutions.

    O = 1/B Σ_rows Σ_positions Σ_k g gᵀ,   g = ∂ a_kᵀz/∂y

with y [o] the output of the layer at one position of a row, z the head's numbers for the row and
Σ_k a_k a_kᵀ their Fisher information (:func:`plait.merging.objectives.factors`). Together with the
mean G of the inputs' squares, O ⊗ G stands for the Fisher information of the layer's weight
(K-FAC, positions counted as rows).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from plait.merging.bench import Bench, array
from plait.merging.objectives import factors
from plait.merging.pool import Array
from plait.merging.statistics.base import Statistic
from plait.merging.statistics.inputs import layers, units_last


@dataclass(frozen=True, kw_only=True)
class OutputGrams(Statistic):
    """O [o, o] of every layer that the head's numbers depend on, by its weight's name."""

    name: ClassVar[str] = "output-grams"

    def of(self, bench: Bench, task: str) -> Mapping[str, Array]:
        """A backward pass for every batch and every a_k; sums over batches are float64."""
        totals: dict[str, Tensor] = {}
        count = 0

        def add(name: str, slopes: Tensor) -> None:
            rows = slopes.detach().flatten(0, -2)
            folded = (rows.T @ rows).double()
            totals[name] = totals[name].add_(folded) if name in totals else folded

        with returning(bench.module, add):
            for rows in bench.batches(task, self.rows, self.size, self.seed):
                raw = bench.run(task, rows).raw
                count += len(rows)
                weighed = factors(bench.losses[task], raw) * raw.unsqueeze(1)
                for value in weighed.sum((0, 2)):  # rows do not meet, so each has its own gradient
                    for _ in bench.gradients(value):
                        pass
        own = bench.weights
        return {n: array((total / count).to(own[n].dtype)) for n, total in totals.items()}


@contextmanager
def returning(module: nn.Module, heard: Any) -> Iterator[None]:
    """Inside, ``heard(name of the weight, gradients [..., o])`` is told of every gradient that
    comes back to the output of a layer, channels last.
    """

    def layer(name: str) -> Any:
        def listen(one: nn.Module, _: Any, output: Any) -> None:
            if output.requires_grad:
                output.register_hook(lambda slopes: heard(name, units_last(one, slopes)))

        return listen

    handles = [one.register_forward_hook(layer(name)) for name, one in layers(module).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
