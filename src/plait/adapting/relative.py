"""Vectors told by their cosines with anchors, and the search for vectors of such cosines."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def cosines(x: Tensor, anchors: Tensor) -> Tensor:
    """The cosines [..., a] of vectors [..., d] with anchors [a, d]."""
    return F.normalize(x, dim=-1) @ F.normalize(anchors, dim=-1).T


def spread(words: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the deviation of all numbers of a table of embeddings."""
    return words.mean(), words.std()


def search(
    codes: Sequence[Tensor],
    anchors: Tensor,
    start: Tensor,
    like: tuple[Tensor, Tensor],
    *,
    top: int,
    steps: int,
    rate: float,
) -> Tensor:
    """Prompts [T, n, d] whose cosines with anchors [a, d] are like the codes [T, n, a]."""
    masks = [_largest(code, top) for code in codes]
    moved = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([moved], lr=rate)

    def spelled() -> Tensor:
        mean, std = moved.mean((1, 2), keepdim=True), moved.std((1, 2), keepdim=True)
        return (moved - mean) / std * like[1] + like[0]

    for _ in range(steps):
        mine = cosines(spelled(), anchors)
        each = [
            1 - F.cosine_similarity(mine * mask, code * mask, dim=-1)
            for code, mask in zip(codes, masks, strict=True)
        ]
        optimizer.zero_grad()
        torch.stack(each).mean((0, 2)).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return spelled().detach()


def _largest(code: Tensor, top: int) -> Tensor:
    """Ones where each vector's ``top`` largest cosines are; everywhere for 0."""
    if not 0 < top < code.shape[-1]:
        return torch.ones_like(code)
    return torch.zeros_like(code).scatter(-1, code.topk(top, dim=-1).indices, 1.0)
