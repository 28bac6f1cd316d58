"""The operations whose task gradients have a cheaper form than one backward pass for each task.

A rule reads what its operation saved in the graph. ``kernel`` makes a form from the cotangents of
every task [t, ...]; ``segments`` makes one from the cotangents of a single pass, where each row
belongs to one task. A rule that does not apply gives None, and the parameter is differentiated
directly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.training.engine.held import Dense, Entries, Held, Kernel, Segments, Shape, wide

Slots = Mapping[int, tuple[int, bool]]  # slot of a node → the parameter there, and if it is turned
Rule = Callable[[Any, Slots, Sequence[nn.Parameter]], "Use | None"]


@dataclass(frozen=True, eq=False)
class Use:
    """Operations of one kind through which the parameters at ``places`` enter the graph."""

    nodes: tuple[Any, ...]
    places: tuple[int, ...]

    @property
    def kind(self) -> tuple[Any, ...]:
        """What uses must have in common for their rows to be put one after another."""
        return type(self), self.places

    def joined(self, others: Sequence[Use]) -> Self:
        """All of them as one."""
        return replace(self, nodes=tuple(node for use in others for node in use.nodes))

    def pays(self, tasks: int) -> bool:
        """Whether cotangents of every task are cheaper than their gradients."""
        del tasks
        return False

    def rows(self, delta: Tensor) -> Tensor:
        """The cotangents [rows, numbers] of one node, a row for each row of the batch it saw."""
        return delta.flatten(0, -2)

    def kernel(self, deltas: Sequence[Tensor]) -> Held:
        """The form made of every task's cotangents [t, ...], node by node."""
        raise NotImplementedError

    def segments(self, rows: Tensor, task: Tensor, count: int) -> list[Held]:
        """The forms made of one pass: rows [N, numbers] of all nodes and the task of each."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Linear(Use):
    """y = x Wᵀ + b on rows: ``addmm`` and ``mm``."""

    shape: Shape
    inner: int
    outer: int

    @property
    def kind(self) -> tuple[Any, ...]:
        return type(self), self.places, self.shape.turned

    def pays(self, tasks: int) -> bool:
        rows = sum(int(node._input_metadata[0].shape[0]) for node in self.nodes)
        return _kernel_pays(rows, self.inner, self.outer, tasks)

    def inputs(self) -> Tensor:
        """What the operations saw, [N, n]."""
        names = ["mat1" if node.name() == ADDMM else "self" for node in self.nodes]
        inputs = [saved(node, name) for node, name in zip(self.nodes, names, strict=True)]
        return inputs[0] if len(inputs) == 1 else torch.cat(inputs)

    def kernel(self, deltas: Sequence[Tensor]) -> Held:
        cotangents = deltas[0] if len(deltas) == 1 else torch.cat(list(deltas), 1)
        return Kernel(self.places, self.shape, self.inputs(), cotangents)

    def segments(self, rows: Tensor, task: Tensor, count: int) -> list[Held]:
        inputs = self.inputs()
        if bool((task[1:] < task[:-1]).any()):
            task, order = task.sort(stable=True)
            rows, inputs = rows[order], inputs[order]
        return [Segments(self.places, self.shape, inputs, rows, task, count)]


@dataclass(frozen=True, eq=False)
class Convolution(Use):
    """A two-dimensional convolution without groups; its patches are the rows of a linear map."""

    shape: Shape
    window: tuple[int, ...]

    def pays(self, tasks: int) -> bool:
        outer, inner = self.shape.weight[0], prod(self.shape.weight[1:])
        shapes = [node._input_metadata[0].shape for node in self.nodes]
        return _kernel_pays(sum(s[0] * s[2] * s[3] for s in shapes), inner, outer, tasks)

    def rows(self, delta: Tensor) -> Tensor:
        return delta.flatten(1)

    def kernel(self, deltas: Sequence[Tensor]) -> Held:
        cotangents = [delta.flatten(3).transpose(2, 3).flatten(1, 2) for delta in deltas]
        patches = [
            F.unfold(
                saved(node, "input"),
                self.window,
                node._saved_dilation,
                node._saved_padding,
                node._saved_stride,
            )
            for node in self.nodes
        ]
        inputs = torch.cat([found.transpose(1, 2).flatten(0, 1) for found in patches])
        return Kernel(self.places, self.shape, inputs, torch.cat(cotangents, 1))

    def segments(self, rows: Tensor, task: Tensor, count: int) -> list[Held]:
        outer = self.shape.weight[0]
        weight = rows.new_zeros(count, *self.shape.weight)
        start = 0
        for node in self.nodes:
            batch, _, high, across = node._input_metadata[0].shape
            deltas = rows[start : start + batch].view(batch, outer, high, across)
            mine, inputs = task[start : start + batch], saved(node, "input")
            for place in torch.unique(mine).tolist():
                chosen = (mine == place).nonzero()[:, 0]
                weight[place] += _weight_gradient(node, deltas[chosen], inputs[chosen])
            start += batch
        found: list[Held] = [Dense(self.places[:1], weight)]
        if self.shape.bias is not None:
            sums = rows.view(len(rows), outer, -1).sum(2)
            found.append(Dense(self.places[1:], _sums(sums, task, count)))
        return found


def saved(node: Any, name: str) -> Tensor:
    """A tensor that an operation kept for the backward pass, without its own graph."""
    found: Tensor = getattr(node, f"_saved_{name}")
    return found.detach()


def _weight_gradient(node: Any, delta: Tensor, inputs: Tensor) -> Tensor:
    weight: Tensor = torch.ops.aten.convolution_backward(
        delta, inputs, saved(node, "weight"), None, node._saved_stride, node._saved_padding,
        node._saved_dilation, False, [0, 0], 1, [False, True, False],
    )[1]  # fmt: skip
    return weight


@dataclass(frozen=True, eq=False)
class Embedding(Use):
    """Rows looked up in a table [V, d]; gradients stay on the rows that were."""

    size: int
    sparse: bool

    def pays(self, tasks: int) -> bool:
        del tasks
        rows: int = sum(prod(node._input_metadata[0].shape[:-1]) for node in self.nodes)
        return rows < self.size

    def _ids(self) -> Tensor:
        return torch.cat([node._saved_indices.flatten() for node in self.nodes])

    def kernel(self, deltas: Sequence[Tensor]) -> Held:
        rows = torch.cat([delta.flatten(1, -2) for delta in deltas], 1)
        known, place = torch.unique(self._ids(), return_inverse=True)
        block = wide(rows).new_zeros(len(rows), len(known), rows.shape[2])
        block.index_add_(1, place, wide(rows))
        return self._entries(known, block)

    def segments(self, rows: Tensor, task: Tensor, count: int) -> list[Held]:
        known, place = torch.unique(self._ids(), return_inverse=True)
        block = _sums(rows, task * len(known) + place, count * len(known))
        return [self._entries(known, block.view(count, len(known), -1))]

    def _entries(self, known: Tensor, block: Tensor) -> Held:
        padding = self.nodes[0]._saved_padding_idx
        if 0 <= padding < self.size:  # a lookup of the padding trains nothing
            block = block * (known != padding).to(block)[:, None]
        return Entries(self.places, self.size, known, block, self.sparse)


@dataclass(frozen=True, eq=False)
class Norm(Use):
    """The scale and shift of a layer norm over the last dimension."""

    def segments(self, rows: Tensor, task: Tensor, count: int) -> list[Held]:
        normed = []
        for node in self.nodes:
            x, mean, rstd = (saved(node, name) for name in ("input", "result1", "result2"))
            normed.append(((x - mean) * rstd).flatten(0, -2))
        scale = _sums(rows * torch.cat(normed).to(rows), task, count)
        found: list[Held] = [Dense(self.places[:1], scale)]
        if len(self.places) > 1:
            found.append(Dense(self.places[1:], _sums(rows, task, count)))
        return found


@dataclass(frozen=True, eq=False)
class Shift(Use):
    """A vector added to every row."""

    def segments(self, rows: Tensor, task: Tensor, count: int) -> list[Held]:
        return [Dense(self.places, _sums(rows, task, count))]


def _kernel_pays(rows: int, inner: int, outer: int, tasks: int) -> bool:
    """Whether the Gramian takes fewer operations by the inner kernel than by the gradients."""
    kernel = rows * rows * (inner + 2 * tasks * outer) + tasks * tasks * rows * outer
    return kernel < tasks * inner * outer * (2 * rows + tasks)


def _sums(rows: Tensor, task: Tensor, count: int) -> Tensor:
    rows = wide(rows)
    return rows.new_zeros(count, rows.shape[1]).index_add_(0, task, rows)


ADDMM = "AddmmBackward0"


def _linear(node: Any, slots: Slots, parameters: Sequence[nn.Parameter]) -> Use | None:
    """``addmm(b, x, W)`` and ``mm(x, W)``; W on the right, b a vector."""
    weight_slot = 2 if node.name() == ADDMM else 1
    if weight_slot not in slots or set(slots) - {weight_slot, 0}:
        return None
    if node.name() == ADDMM and (node._saved_alpha != 1 or node._saved_beta != 1):
        return None
    if node.name() != ADDMM and 0 in slots:
        return None
    place, turned = slots[weight_slot]
    weight = parameters[place]
    outer = int(node._input_metadata[0].shape[1])
    inner = weight.numel() // outer
    bias = slots.get(0)
    if bias is not None and (parameters[bias[0]].numel() != outer or bias[1]):
        return None
    places = (place,) if bias is None else (place, bias[0])
    # mm takes W [n, m] itself; a layer that keeps [m, n] hands over its transpose.
    shape = Shape(weight.shape, None if bias is None else parameters[bias[0]].shape, not turned)
    return Linear((node,), places, shape, inner, outer)


def _convolution(node: Any, slots: Slots, parameters: Sequence[nn.Parameter]) -> Use | None:
    if 1 not in slots or set(slots) - {1, 2} or any(turned for _, turned in slots.values()):
        return None
    weight = parameters[slots[1][0]]
    if node._saved_transposed or node._saved_groups != 1 or weight.ndim != 4:
        return None
    places = tuple(slots[slot][0] for slot in sorted(slots))
    shape = Shape(weight.shape, parameters[places[1]].shape if len(places) > 1 else None)
    return Convolution((node,), places, shape, tuple(weight.shape[2:]))


def _embedding(node: Any, slots: Slots, parameters: Sequence[nn.Parameter]) -> Use | None:
    if set(slots) != {0} or slots[0][1] or node._saved_scale_grad_by_freq:
        return None
    place = slots[0][0]
    return Embedding((node,), (place,), len(parameters[place]), node._saved_sparse)


def _norm(node: Any, slots: Slots, parameters: Sequence[nn.Parameter]) -> Use | None:
    if 1 not in slots or set(slots) - {1, 2} or len(node._saved_normalized_shape) != 1:
        return None
    del parameters
    return Norm((node,), tuple(slots[slot][0] for slot in sorted(slots)))


def _shift(node: Any, slots: Slots, parameters: Sequence[nn.Parameter]) -> Use | None:
    if len(slots) != 1 or node._saved_alpha != 1:
        return None
    place = next(iter(slots.values()))[0]
    parameter, shape = parameters[place], node._input_metadata[0].shape
    if parameter.ndim != 1 or len(shape) < 2 or shape[-1] != len(parameter):
        return None
    return Shift((node,), (place,))


RULES: Mapping[str, Rule] = {
    ADDMM: _linear,
    "MmBackward0": _linear,
    "ConvolutionBackward0": _convolution,
    "EmbeddingBackward0": _embedding,
    "NativeLayerNormBackward0": _norm,
    "AddBackward0": _shift,
}
