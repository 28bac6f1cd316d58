"""What goes into a network's layers: Gram matrices and magnitudes of their inputs.

The layers are linear ones and convolutions without groups; the inputs of a convolution are what
each of its outputs is formed of, in the order of its weight's other axes. Padding does not count:
where a module is called with an ``attention_mask`` [rows, positions], the inputs of the layers
inside are those of the positions that it keeps.
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

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BLOCK = 256  # columns of a Gram matrix in one product: wide enough for its speed


@dataclass(frozen=True, kw_only=True)
class Inputs(Statistic):
    """A mean over the inputs [n] of every layer, by the name of its weight.

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

        def add(name: str, layer: nn.Module, given: Tensor, _: Tensor, real: Tensor | None) -> None:
            if self.only is not None and name not in self.only:
                return
            if isinstance(layer, CONVOLUTIONS):
                last.clear()  # each has windows of its own
            if not last or last[0][0] is not given:
                inputs = columns(layer, given, real)
                last[:] = [(given, self.fold(inputs).double(), len(inputs))]
            _, folded, count = last[0]
            if isinstance(layer, CONVOLUTIONS):
                last.clear()
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
    """Σ x xᵀ / N over the inputs x [n] of every layer, [n, n]."""

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
    """Σ |x| / N over the inputs x [n] of every layer and every layer norm, [n]."""

    name: ClassVar[str] = "magnitudes"
    scales: ClassVar[bool] = True

    def fold(self, inputs: Tensor) -> Tensor:
        """The sum of the magnitudes."""
        return inputs.abs().sum(0)


@contextmanager
def listening(module: nn.Module, heard: Any, *, scales: bool = False) -> Iterator[None]:
    """Inside, ``heard`` is told of every layer that runs, and with ``scales`` of layer norms too.

    It is given the name of the weight, the module, inputs [..., n], outputs [..., o], and which
    positions [...] are no padding, or None where all are.
    """
    masks: list[Tensor | None] = [None]

    def masked(_: nn.Module, __: Any, named: dict[str, Any]) -> None:
        mask = named.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 2:
            masks[0] = mask.bool()

    def layer(name: str) -> Any:
        def ran(one: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            mask = masks[0]
            fits = mask is not None and mask.shape == given[0].shape[:-1]
            heard(name, one, given[0], made, mask if fits else None)

        return ran

    handles = [one.register_forward_pre_hook(masked, with_kwargs=True) for one in module.modules()]
    for name, one in layers(module, scales=scales).items():
        handles.append(one.register_forward_hook(layer(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layers(module: nn.Module, *, scales: bool = False) -> dict[str, nn.Module]:
    """Linear layers and convolutions without groups by the names of their weights.

    With ``scales`` the norms over the last axis too, of whatever library.
    """
    found = {}
    for path, one in module.named_modules():
        plain = isinstance(one, CONVOLUTIONS) and one.groups == 1
        if isinstance(one, nn.Linear) or plain or (scales and _scales(one)):
            found[f"{path}.weight" if path else "weight"] = one
    return found


def columns(layer: nn.Module, given: Tensor, real: Tensor | None) -> Tensor:
    """What rows of a layer's weight, laid out flat, are multiplied by, [N, n], of its inputs."""
    if not isinstance(layer, CONVOLUTIONS):
        return given.flatten(0, -2) if real is None else given[real]
    sides = len(layer.kernel_size)
    batched = given if given.ndim == sides + 2 else given.unsqueeze(0)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    found = nn.functional.pad(batched, _padding(layer), mode=mode)
    for axis in range(sides):
        wide = (layer.kernel_size[axis] - 1) * layer.dilation[axis] + 1
        windows = found.unfold(axis + 2, wide, layer.stride[axis])
        found = windows[..., :: layer.dilation[axis]]
    return found.movedim(1, -1 - sides).flatten(-1 - sides).flatten(0, -2)


def units_last(layer: nn.Module, values: Tensor) -> Tensor:
    """What goes into a layer or comes out of it, channels of maps last."""
    if isinstance(layer, CONVOLUTIONS):
        return values.movedim(-1 - len(layer.kernel_size), -1)
    return values


def _padding(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> list[int]:
    """Cells before and after every axis, the last axis first."""
    if isinstance(layer.padding, str):
        spans = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        sides = [(s // 2, s - s // 2) if layer.padding == "same" else (0, 0) for s in spans]
    else:
        sides = [(p, p) for p in layer.padding]
    return [cells for pair in reversed(sides) for cells in pair]


def _scales(module: nn.Module) -> bool:
    """Whether it is a norm over the last axis."""
    weight = module._parameters.get("weight")
    name = type(module).__name__
    return weight is not None and weight.ndim == 1 and name.endswith(("LayerNorm", "RMSNorm"))
