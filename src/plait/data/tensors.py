"""Encoded inputs gathered by row, as the tensors that a network reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from plait.data.stores import Array, spans


class Store(Protocol):
    """The stored rows of one input."""

    def __len__(self) -> int: ...

    def take(self, at: Tensor) -> Tensor:
        """The rows at the given positions [B], as a network reads them."""
        ...


class Dense:
    """Rows of one shape; ``finish`` turns what is stored into what a network reads."""

    def __init__(self, data: Tensor, finish: Callable[[Tensor], Tensor] | None = None) -> None:
        self.data = data
        self.finish = finish

    def __len__(self) -> int:
        return len(self.data)

    def take(self, at: Tensor) -> Tensor:
        rows = self.data.index_select(0, at)
        return self.finish(rows) if self.finish else rows


class Ragged:
    """Rows of differing length; a gather pads them with 0 to the longest one."""

    def __init__(self, indptr: Array, values: Array) -> None:
        self.indptr = indptr
        self.values = values

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def take(self, at: Tensor) -> Tensor:
        rows = at.numpy()
        start = self.indptr[rows]
        length = self.indptr[rows + 1] - start
        longest = max(int(length.max(initial=0)), 1)
        padded = np.zeros((len(rows), longest), dtype=np.int64)
        filled = np.arange(longest) < length[:, None]
        padded[filled] = self.values[spans(start, length)]
        return torch.from_numpy(padded)


def codes(stored: Tensor) -> Tensor:
    """Codes as embeddings read them."""
    return stored.long()


class Standardise:
    """x ↦ (x/top − center)/scale per channel of [n, C, H, W]."""

    def __init__(self, top: float, center: Sequence[float], scale: Sequence[float]) -> None:
        wide = torch.tensor(scale).view(-1, 1, 1)
        self.factor = 1.0 / (top * wide)
        self.shift = -torch.tensor(center).view(-1, 1, 1) / wide

    def __call__(self, images: Tensor) -> Tensor:
        # Channels last in memory, as convolutions and pooling are quickest.
        found = torch.empty(images.shape, memory_format=torch.channels_last)
        return torch.addcmul(self.shift, images.float(), self.factor, out=found)
