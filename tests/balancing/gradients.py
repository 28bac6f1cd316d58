"""Task gradients and the signals made of them."""

from __future__ import annotations

from typing import Any

import torch

from plait.balancing.base import Balancer, Signals


def jacobian(tasks: int, size: int, seed: int, spread: float = 0.0) -> torch.Tensor:
    """Random rows; ``spread`` decades lie between the shortest and the longest."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, size, generator=draw, dtype=torch.float64)
    lengths = 10 ** (spread * torch.rand(tasks, 1, generator=draw, dtype=torch.float64))
    return rows * lengths


def signals(rows: torch.Tensor, losses: list[float] | None = None, **given: Any) -> Signals:
    values = losses or [1.0] * len(rows)
    named = {f"t{i}": value for i, value in enumerate(values)}
    return Signals.of(named, gram=rows @ rows.T, **given)


def bound(balancer: Balancer, s: Signals) -> Balancer:
    balancer.bind(s.tasks)
    return balancer


def sampled(parts: list[torch.Tensor], **given: Any) -> Signals:
    """Signals of a batch in independent parts, from the gradients of each."""
    stacked = torch.stack(parts)
    products = torch.einsum("aip,bjp->abij", stacked, stacked)
    return signals(stacked.mean(0), samples=products, **given)
