"""The loop of methods that learn coefficients, literally: weights from all task vectors at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from merging_nets import TASKS
from torch import Tensor, nn
from torch.func import functional_call


def learned(
    pool: Any,
    bench: Any,
    free: Tensor,
    every: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    batch: int,
    before: Callable[[int], object] = lambda step: None,
    after: Callable[[], object] = lambda: None,
    extra: Callable[[Tensor], Any] = lambda free: 0.0,
    turned: str | None = None,
) -> list[float]:
    """Minimise the sum of the tasks' mean cross-entropies; ``every`` gives coefficients [L, M].

    That of the task ``turned`` has its sign turned.
    """
    base = {name: torch.from_numpy(value) for name, value in pool.base.items()}
    vectors = {
        name: torch.stack([torch.from_numpy(pool.models[t][name]) - base[name] for t in TASKS])
        for name in base
    }
    losses = []
    for step in range(steps):
        rows = every(free)
        weights = {
            name: value + torch.tensordot(row, vectors[name], 1)
            for row, (name, value) in zip(rows, base.items(), strict=True)
        }
        loss = torch.zeros((), dtype=torch.float64)
        for task in TASKS:
            drawn = torch.from_numpy(bench.drawn(task, batch, step, 0))
            inputs, labels = bench._inputs[task][""][drawn], bench._labels[task][drawn]
            raw = bench._heads[task](functional_call(bench.module, weights, (inputs,)))
            sign = -1 if task == turned else 1
            loss = loss + sign * nn.functional.cross_entropy(raw, labels)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        (loss + extra(free)).backward()
        before(step)
        optimizer.step()
        with torch.no_grad():
            after()
    return losses
