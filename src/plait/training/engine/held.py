"""Task gradients in the form that is cheapest to hold, a part of the shared parameters each.

A linear layer's gradient is g_t = δ_tᵀ a, with its inputs a [N, n] and the output's cotangents δ_t
[N, m]. Where it sees fewer rows than inputs, δ is smaller than g, and so is the work:
⟨g_s, g_t⟩ = ⟨δ_s, K δ_t⟩ with the inner kernel K = a aᵀ [N, N].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

TOGETHER = 16  # tasks in one product with the kernel


@dataclass(frozen=True)
class Held:
    """The task gradients of the shared parameters at ``places``."""

    places: tuple[int, ...]

    def gram(self) -> Tensor:
        """Their inner products [t, t]."""
        raise NotImplementedError

    def update(self, weights: Tensor) -> Sequence[Tensor]:
        """Σ_i w_i g_i for each of the parameters, w [t]."""
        raise NotImplementedError

    def rows(self) -> Sequence[Tensor]:
        """The gradients themselves, [t, *shape] for each of the parameters."""
        raise NotImplementedError

    def only(self, kept: list[int]) -> Self:
        """Those of some tasks."""
        raise NotImplementedError

    def times(self, factor: Tensor) -> Self:
        """The gradients times a number."""
        raise NotImplementedError

    def moved(self, by: int) -> Self:
        """The same at places further on."""
        return replace(self, places=tuple(place + by for place in self.places))


def wide(values: Tensor) -> Tensor:
    """Values in a precision that products may be formed in: float32 at least."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def flat(rows: Tensor) -> Tensor:
    """Rows [t, ...] as a matrix [t, p]; those of a scalar are [t, 1]."""
    return rows.unsqueeze(1) if rows.ndim == 1 else rows.flatten(1)


def products(rows: Tensor) -> Tensor:
    """R Rᵀ [t, t] of rows R [t, ...]."""
    matrix = wide(flat(rows))
    return matrix @ matrix.T


def weighted(weights: Tensor, rows: Tensor) -> Tensor:
    """Σ_i w_i r_i [...] of rows [t, ...], w [t]."""
    return (weights.to(rows) @ flat(rows)).view(rows.shape[1:])


@dataclass(frozen=True)
class Dense(Held):
    """The gradients [t, *shape] of one parameter; ``sparse`` says that updates are to be so."""

    block: Tensor
    sparse: bool = False

    def gram(self) -> Tensor:
        return products(self.block)

    def update(self, weights: Tensor) -> Sequence[Tensor]:
        found = weighted(weights, self.block)
        return [found.to_sparse(1) if self.sparse else found]

    def rows(self) -> Sequence[Tensor]:
        return [self.block]

    def only(self, kept: list[int]) -> Self:
        return replace(self, block=self.block[kept])

    def times(self, factor: Tensor) -> Self:
        return replace(self, block=wide(self.block) * factor)


@dataclass(frozen=True)
class Shape:
    """How the parameters of a linear map lie: the weight's shape, and the bias's if it has one.

    ``turned`` weights are [n, m], others [m, n] up to a view.
    """

    weight: torch.Size
    bias: torch.Size | None
    turned: bool = False

    def fit(self, weight: Tensor, bias: Tensor | None, lead: Sequence[int] = ()) -> list[Tensor]:
        """A gradient [*lead, m, n] and the bias's [*lead, m], shaped as the parameters are."""
        weight = weight.transpose(-2, -1) if self.turned else weight
        found = [weight.reshape(*lead, *self.weight)]
        if self.bias is not None and bias is not None:
            found.append(bias.reshape(*lead, *self.bias))
        return found


def _kernel(inputs: Tensor, shape: Shape) -> Tensor:
    """A aᵀ [N, N], plus one where there is a bias, whose input is a one in every row."""
    if shape.bias is None:
        return inputs @ inputs.T
    return torch.addmm(inputs.new_ones(1), inputs, inputs.T)


@dataclass(frozen=True)
class Kernel(Held):
    """A linear map that every task runs: inputs [N, n] and the tasks' cotangents [t, N, m]."""

    shape: Shape
    inputs: Tensor
    cotangents: Tensor

    def gram(self) -> Tensor:
        inputs, deltas = wide(self.inputs), wide(self.cotangents)
        kernel = _kernel(inputs, self.shape)
        rows = flat(deltas)
        parts = [
            rows @ torch.matmul(kernel, some).flatten(1).T for some in torch.split(deltas, TOGETHER)
        ]
        return torch.cat(parts, 1)

    def update(self, weights: Tensor) -> Sequence[Tensor]:
        deltas = wide(self.cotangents)
        delta = weighted(weights, deltas)
        return self.shape.fit(delta.T @ wide(self.inputs), delta.sum(0))

    def rows(self) -> Sequence[Tensor]:
        deltas = wide(self.cotangents)
        weight = torch.matmul(deltas.transpose(1, 2), wide(self.inputs))
        return self.shape.fit(weight, deltas.sum(1), deltas.shape[:1])

    def only(self, kept: list[int]) -> Self:
        return replace(self, cotangents=self.cotangents[kept])

    def times(self, factor: Tensor) -> Self:
        return replace(self, cotangents=wide(self.cotangents) * factor)


@dataclass(frozen=True)
class Segments(Held):
    """A linear map each row of which belongs to one task: inputs [N, n], cotangents [N, m].

    ``task`` [N] ascends. ⟨g_s, g_t⟩ sums H = (a aᵀ + 1) ∘ (δ δᵀ) [N, N] over the rows of s and t.
    """

    shape: Shape
    inputs: Tensor
    cotangents: Tensor
    task: Tensor
    count: int

    def gram(self) -> Tensor:
        (rows, n), m, tasks = self.inputs.shape, self.cotangents.shape[1], self.count
        if rows * rows * (m + n) > m * n * (2 * rows + tasks * tasks):
            return torch.stack([products(part) for part in self.rows()]).sum(0)
        inputs, deltas = wide(self.inputs), wide(self.cotangents)
        kernel = _kernel(inputs, self.shape)
        kernel *= deltas @ deltas.T
        numbers = torch.arange(tasks, device=self.task.device)
        mine = (self.task == numbers[:, None]).to(kernel)  # a row of ones for each task's rows
        return mine @ kernel @ mine.T

    def update(self, weights: Tensor) -> Sequence[Tensor]:
        deltas = wide(self.cotangents)
        delta = deltas * weights.to(deltas)[self.task, None]
        return self.shape.fit(delta.T @ wide(self.inputs), delta.sum(0))

    def rows(self) -> Sequence[Tensor]:
        deltas, inputs, tasks = wide(self.cotangents), wide(self.inputs), self.count
        weight = deltas.new_zeros(tasks, deltas.shape[1], inputs.shape[1])
        counts = torch.bincount(self.task, minlength=tasks).tolist()
        start = 0
        for task, count in enumerate(counts):
            if count:
                mine = slice(start, start + count)
                torch.mm(deltas[mine].T, inputs[mine], out=weight[task])
                start += count
        bias = deltas.new_zeros(tasks, deltas.shape[1]).index_add_(0, self.task, deltas)
        return self.shape.fit(weight, bias, (tasks,))

    def only(self, kept: list[int]) -> Self:
        place = torch.full((self.count,), -1, device=self.task.device)
        place[kept] = torch.arange(len(kept), device=self.task.device)
        task = place[self.task]
        mine = task >= 0
        return replace(
            self,
            inputs=self.inputs[mine],
            cotangents=self.cotangents[mine],
            task=task[mine],
            count=len(kept),
        )

    def times(self, factor: Tensor) -> Self:
        return replace(self, cotangents=wide(self.cotangents) * factor)


@dataclass(frozen=True)
class Entries(Held):
    """Gradients [t, V′, d] on those rows of a table [V, d] that the batch looked up."""

    size: int
    ids: Tensor
    block: Tensor
    sparse: bool

    def gram(self) -> Tensor:
        return products(self.block)

    def update(self, weights: Tensor) -> Sequence[Tensor]:
        found = weighted(weights, self.block)
        shape = (self.size, *found.shape[1:])
        if self.sparse:
            return [
                torch.sparse_coo_tensor(
                    self.ids[None], found, shape, is_coalesced=True, check_invariants=False
                )
            ]
        return [found.new_zeros(shape).index_copy_(0, self.ids, found)]

    def rows(self) -> Sequence[Tensor]:
        tasks, _, *rest = self.block.shape
        whole = self.block.new_zeros(tasks, self.size, *rest)
        return [whole.index_copy_(1, self.ids, self.block)]

    def only(self, kept: list[int]) -> Self:
        return replace(self, block=self.block[kept])

    def times(self, factor: Tensor) -> Self:
        return replace(self, block=wide(self.block) * factor)
