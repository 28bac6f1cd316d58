"""What goes into a network's linear layers: Gram matrices and magnitudes of their inputs.

Padding does not count: where a module is called with an ``attention_mask`` [rows, positions], the
inputs of the layers inside are those of the positions that it keeps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plait.merging.bench import Bench, array
from plait.merging.pool import Array
from plait.merging.statistics.base import Statistic

BLOCK = 256  # columns of a Gram matrix in one product: wide enough for its speed


@dataclass(frozen=True, kw_only=True)
class Inputs(Statistic):
    """A mean over the inputs [n] of every linear layer, by the name of its weight.

    With ``only`` of those layers alone. A subclass that wants ``scales`` is also told of modules
    whose own weight is a vector as long as what goes in (layer norms).
    """

    scales: ClassVar[bool] = False
    only: tuple[str, ...] | None = None

    @abstractmethod
    def fold(self, inputs: Tensor) -> Tensor:
        """The sum over inputs [N, n] of what is to be averaged."""

    def whole(self, total: Tensor) -> Tensor:
        """A sum of what was folded, where that is only a part."""
        return total

    @torch.no_grad()
    def of(self, bench: Bench, task: str) -> Mapping[str, Array]:
        """One pass over the task's rows; sums over batches are float64."""
        totals: dict[str, tuple[Tensor, int]] = {}
        last: list[tuple[Tensor, Tensor, int]] = []  # layers side by side are given one tensor

        def add(name: str, inputs: Tensor, real: Tensor | None) -> None:
            if self.only is not None and name not in self.only:
                return
            if not last or last[0][0] is not inputs:
                kept = real is not None and real.shape == inputs.shape[:-1]
                rows = inputs[real] if kept else inputs.flatten(0, -2)
                last[:] = [(inputs, self.fold(rows).double(), len(rows))]
            _, folded, count = last[0]
            before, counted = totals.get(name, (torch.zeros_like(folded), 0))
            totals[name] = before.add_(folded), counted + count

        with listening(bench.module, add, scales=self.scales):
            for rows in bench.batches(task, self.rows, self.size, self.seed):
                bench.run(task, rows)
                last.clear()
        own = bench.weights
        return {
            n: array((self.whole(total) / count).to(own[n].dtype))
            for n, (total, count) in totals.items()
        }


class Grams(Inputs):
    """Σ x xᵀ / N over the inputs x [n] of every linear layer, [n, n]."""

    name: ClassVar[str] = "grams"

    def fold(self, inputs: Tensor) -> Tensor:
        """XᵀX, its lower blocks left at 0: it is symmetric, and wide layers cost half."""
        product = inputs.new_zeros(inputs.shape[1], inputs.shape[1])
        for start in range(0, inputs.shape[1], BLOCK):
            columns = inputs[:, start : start + BLOCK]
            torch.mm(columns.T, inputs[:, start:], out=product[start : start + BLOCK, start:])
        return product

    def whole(self, total: Tensor) -> Tensor:
        """Both triangles."""
        return total.triu() + total.triu(1).T


class Magnitudes(Inputs):
    """Σ |x| / N over the inputs x [n] of every linear layer and every layer norm, [n]."""

    name: ClassVar[str] = "magnitudes"
    scales: ClassVar[bool] = True

    def fold(self, inputs: Tensor) -> Tensor:
        """The sum of the magnitudes."""
        return inputs.abs().sum(0)


@contextmanager
def listening(module: nn.Module, heard: Any, *, scales: bool = False) -> Iterator[None]:
    """Inside, ``heard(name of the weight, inputs [..., n], mask or None)`` is told of every linear
    layer that runs, and with ``scales`` of every module that multiplies channels by its weight.
    """
    masks: list[Tensor | None] = [None]

    def masked(_: nn.Module, __: Any, named: dict[str, Any]) -> None:
        mask = named.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 2:
            masks[0] = mask.bool()

    def layer(name: str) -> Any:
        return lambda _, given: heard(name, given[0], masks[0])

    handles = []
    for path, one in module.named_modules():
        handles.append(one.register_forward_pre_hook(masked, with_kwargs=True))
        if isinstance(one, nn.Linear) or (scales and _scales(one)):
            name = f"{path}.weight" if path else "weight"
            handles.append(one.register_forward_pre_hook(layer(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _scales(module: nn.Module) -> bool:
    """Whether it is a norm over the last axis, of whatever library."""
    weight = module._parameters.get("weight")
    name = type(module).__name__
    return weight is not None and weight.ndim == 1 and name.endswith(("LayerNorm", "RMSNorm"))
