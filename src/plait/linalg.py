"""Small dense algebra; nothing about tasks."""

from __future__ import annotations

from torch import Tensor


def cosines(gram: Tensor) -> Tensor:
    """The cosines [n, n] of the vectors whose inner products these are; NaN for a zero vector.

    >>> import torch
    >>> cosines(torch.tensor([[4.0, -3.0], [-3.0, 9.0]]))
    tensor([[ 1.0000, -0.5000],
            [-0.5000,  1.0000]])
    """
    lengths = gram.diagonal().clamp(min=0).sqrt()
    return (gram / lengths[:, None] / lengths[None, :]).clamp(-1, 1)
