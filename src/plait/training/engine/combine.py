"""From task gradients and a balancer to one update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, Rung, Signals
from plait.training.engine.gather import Engine, gather
from plait.training.engine.gathered import Gathered, layers
from plait.training.engine.held import flat, products
from plait.training.engine.roots import Root

Blocks = list[Tensor | None]  # per shared parameter the task gradients [t, *shape]; None: unreached


def combine(
    balancer: Balancer,
    signals: Signals,
    found: Gathered | Blocks,
    samples: Sequence[Gathered] = (),
) -> tuple[Signals, list[Tensor | None]]:
    """The balanced update of every shared parameter, and the signals with what was seen.

    ``samples`` are the gradients on independent parts of the batch, for a balancer that asks.
    """
    if isinstance(found, list):
        found = Gathered.of([_like(block) for block in found], found)
    if balancer.rung is Rung.JACOBIAN:
        return _by_coordinates(balancer, signals, found)
    layer_of = layers(found.parameters) if balancer.by_layer else None
    if layer_of is None:
        signals = replace(signals, gram=found.gram())
    else:
        grams = found.layers(layer_of)
        signals = replace(signals, gram=grams.sum(0), layers=grams)
    if balancer.samples > 1:
        signals = replace(signals, samples=crossed(samples))
    raw: Tensor = balancer(signals)  # the preferences are in the gradients already
    told = collapsed(balancer, raw) * signals.preferences.to(raw)
    if raw.ndim == 1:
        updates = found.update(raw)
    elif layer_of is not None:
        updates = found.update(raw, layer_of)
    else:
        updates = [None] * len(found.parameters)
        for part, weights in zip(samples, raw, strict=True):
            updates = added(updates, part.update(weights))
    return replace(signals, weights=told), updates


def collapsed(balancer: Balancer, raw: Tensor) -> Tensor:
    """One weight for each task [t]: the mean over layers, the sum over parts of the batch."""
    if raw.ndim == 1:
        return raw
    return raw.mean(0) if balancer.by_layer else raw.sum(0)


def _by_coordinates(
    balancer: Balancer, signals: Signals, found: Gathered
) -> tuple[Signals, list[Tensor | None]]:
    signals = replace(signals, jacobian=found.jacobian())
    pieces = balancer(signals).split([parameter.numel() for parameter in found.parameters])
    reached = {place for part in found.held for place in part.places}
    pairs = enumerate(zip(pieces, found.parameters, strict=True))
    return signals, [v.view(p.shape) if place in reached else None for place, (v, p) in pairs]


def crossed(samples: Sequence[Gathered]) -> Tensor:
    """The products J_a J_bᵀ [k, k, t, t] of task gradients on parts of the batch, in float64."""
    blocks = [part.blocks() for part in samples]
    parts, tasks = len(samples), samples[0].count
    total = torch.zeros(parts * tasks, parts * tasks, dtype=torch.float64)
    for several in zip(*blocks, strict=True):
        known = next((block for block in several if block is not None), None)
        if known is not None:
            rows = [torch.zeros_like(known) if block is None else block for block in several]
            total = total.to(known.device) + products(torch.cat(rows)).double()
    return total.view(parts, tasks, parts, tasks).transpose(1, 2)


def gramian(blocks: Blocks, count: int) -> Tensor:
    """Inner products of the task gradients [t, t], summed over blocks in float64."""
    known = [block for block in blocks if block is not None]
    if not known:
        return torch.zeros(count, count, dtype=torch.float64)
    return Gathered.of([_like(block) for block in known], known).gram()


def diagonal(blocks: Blocks, count: int) -> Tensor:
    """Squared norms of the task gradients [t]."""
    parts = [flat(block).float().square().sum(1) for block in blocks if block is not None]
    return torch.stack(parts).sum(0) if parts else torch.zeros(count)


def accumulate(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Add gradients to those that are there, as a backward pass does."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            old = parameter.grad
            parameter.grad = gradient if old is None else old + gradient


def added(old: Sequence[Tensor | None], new: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Sums of gradients that may be missing."""
    return [b if a is None else a if b is None else a + b for a, b in zip(old, new, strict=True)]


def _like(block: Tensor | None) -> Tensor:
    return torch.empty(0) if block is None else block[0]


def task_gradients(
    roots: Sequence[Root], parameters: Sequence[nn.Parameter], engine: Engine
) -> Blocks:
    """Every task's gradient on every parameter: a block [t, *shape] each, None where unreached."""
    return gather(roots, parameters, engine, whole=True).blocks()
