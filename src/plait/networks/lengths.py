"""Texts of similar length run together, so that little padding is computed.

A batch is padded to its longest text; of eight mixed tasks three tokens in four are padding then.
Cut by length, a text's states are the same but for rounding, and no batch is mixed otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from plait.data.stores import Array

# What starting one more piece costs, in tokens, and the most tokens of a piece, which bounds the
# memory of a forward without gradients. On a CPU any start from 30 to 130 is as good (six layers,
# 384 wide); where work is only queued, a start waits for the device and must save much more.
CPU = (64, 2**13)
DEVICE = (2**12, 2**18)


def by_length(tokens: Tensor) -> list[tuple[Tensor, int]]:
    """Cut texts [B, longest], padded with 0, into pieces: the rows of each and their longest.

    The cuts are the cheapest there are, counting padding and a start for each piece; every row is
    in one piece. All rows are one piece where too few tokens are there to save any, and in a graph
    that is being compiled.
    """
    start, most = CPU if tokens.device.type == "cpu" else DEVICE
    rows, longest = tokens.shape
    if torch.compiler.is_compiling() or tokens.numel() <= start:
        return [(torch.arange(rows, device=tokens.device), longest)]
    ends = torch.arange(1, longest + 1, device=tokens.device)
    lengths = ((tokens != 0) * ends).amax(1).clamp(min=1).cpu()
    lengths, order = torch.sort(lengths, stable=True)
    sizes, counts = np.unique(lengths.numpy(), return_counts=True)
    order, found = order.to(tokens.device), []
    for low, high, size in _cheapest(sizes, counts, start):
        pieces = torch.split(order[low:high], max(1, most // size))
        found += [(piece, size) for piece in pieces]
    return found


def _cheapest(sizes: Array, counts: Array, start: int) -> Iterator[tuple[int, int, int]]:
    """First row, end and longest of each piece, the last piece first.

    ``best[k]`` is the least cost of the k shortest sizes, over every place for the last cut.
    """
    ends = np.concatenate([[0], np.cumsum(counts)])
    best, cut = np.zeros(len(ends)), np.zeros(len(ends), dtype=int)
    for k in range(1, len(ends)):
        cost = best[:k] + (ends[k] - ends[:k]) * sizes[k - 1] + start
        cut[k] = cost.argmin()
        best[k] = cost[cut[k]]
    k = len(sizes)
    while k:
        yield int(ends[cut[k]]), int(ends[k]), int(sizes[k - 1])
        k = cut[k]
