"""Blocks of self-attention, for sequences and for the patches of images."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.method import MethodError


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), the mlp four times as wide with GELU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            OrderedDict(
                norm=nn.LayerNorm(width),
                fc1=nn.Linear(width, 4 * width),  # named as sites by role expect it
                activation=nn.GELU(),
                fc2=nn.Linear(4 * width, width),
            )
        )

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """[B, L, width] → [B, L, width]; only where ``seen`` [B, L] is true is attended to."""
        rows, length, width = x.shape
        three = self.project(self.norm(x)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = three.permute(2, 0, 3, 1, 4)
        mask = None if seen is None else seen[:, None, None, :]
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.out(found.transpose(1, 2).reshape(rows, length, width))
        mapped: Tensor = self.mlp(x)
        return x + mapped


def blocks(width: int, depth: int, heads: int) -> nn.ModuleList:
    """``depth`` blocks; :class:`MethodError` for a width that the heads cannot share."""
    if depth < 0 or min(width, heads) < 1:
        raise MethodError("width and heads must be at least 1, depth at least 0", ("depth",))
    if width % heads:
        raise MethodError(f"{heads} heads cannot share a width of {width} evenly", ("heads",))
    return nn.ModuleList(Block(width, heads) for _ in range(depth))


def waves(length: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of the position, [length, width]: any length, nothing to learn."""
    rate = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(1e4) / width))
    angle = torch.arange(length, device=like.device)[:, None] * rate
    both = torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
    return both[:, :width].to(like.dtype)
