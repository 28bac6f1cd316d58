"""Several independent parts of a batch, for balancers that compare the gradients on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, Signals
from plait.training.engine.combine import accumulate, combine
from plait.training.engine.gather import Engine, gather
from plait.training.engine.gathered import Gathered
from plait.training.engine.held import Dense, Held
from plait.training.engine.roots import NotFiniteError, read, signals_of
from plait.training.graph import Graph, check_reach
from plait.training.measuring import Losses


@dataclass(frozen=True)
class Sample:
    """One part: its task gradients, and each task's share [t] of the whole batch in it."""

    gradients: Gathered
    share: Tensor


def pooled(samples: Sequence[Sample]) -> Gathered:
    """The task gradients of the whole batch, Σ_a share_a ∘ J_a."""
    parameters, count = samples[0].gradients.parameters, samples[0].gradients.count
    every = [sample.gradients.blocks() for sample in samples]
    held: list[Held] = []
    for place in range(len(parameters)):
        total: Tensor | None = None
        for sample, blocks in zip(samples, every, strict=True):
            block = blocks[place]
            if block is not None:
                column = sample.share.to(block).view(-1, *[1] * (block.ndim - 1))
                total = column * block if total is None else total + column * block
        if total is not None:
            held.append(Dense((place,), total))
    return Gathered(parameters, held, count)


def backward_samples(
    losses: Sequence[Mapping[str, Tensor]],
    shared: list[nn.Parameter],
    balancer: Balancer,
    specific: Iterable[nn.Parameter] | None,
    engine: Engine,
    step: int | None,
    seed: int,
    *,
    allow_unused: bool,
) -> Signals:
    """:func:`backward` on the losses of several parts of a batch, which count the same.

    The loss of a task on the whole is the mean over the parts that have it. Raises ``ValueError``
    for another number of parts than the balancer compares.
    """
    if len(losses) != balancer.samples:
        raise ValueError(
            f"{balancer.card.name} takes the losses of {balancer.samples} independent parts of a "
            f"batch, got {len(losses)}"
        )
    names = list(dict.fromkeys(task for part in losses for task in part))
    balancer.bind((*balancer.tasks, *(t for t in names if t not in balancer.tasks)))
    times = torch.tensor([sum(name in part for part in losses) for name in names])
    total: Tensor | None = None
    samples, heads = [], dict[nn.Parameter, int]()
    for part in losses:
        roots, told = read(part)
        place = torch.tensor([names.index(task) for task in told.tasks], device=told.value.device)
        value = told.value.new_zeros(len(names)).index_copy(0, place, told.value)
        value = value / times.to(value)
        total = value if total is None else total + value
        graph, name = Graph.of(roots), balancer.card.name
        heads |= check_reach(graph, told.tasks, shared, specific, name, allow_unused=allow_unused)
        found = gather(roots, shared, engine, balancer, whole=True).spread(place, len(names))
        there = torch.zeros(len(names)).index_fill(0, place.cpu(), 1.0)
        samples.append(Sample(found, there / times))
    assert total is not None
    whole = pooled(samples)
    finite = (total.detach().isfinite() & whole.finite()).tolist()
    if not all(finite):
        raise NotFiniteError([name for name, ok in zip(names, finite, strict=True) if not ok])
    told = Losses(tuple(names), total, torch.ones_like(total.detach()))
    step = int(balancer.updates) if step is None else step
    parts = [sample.gradients for sample in samples]
    signals, updates = combine(balancer, signals_of(told, step, seed), whole, parts)
    accumulate(shared, updates)
    weights = signals.weights if balancer.weights_heads else signals.preferences
    if heads:
        assert weights is not None
        value = torch.dot(weights.to(total.dtype), total)
        accumulate(list(heads), torch.autograd.grad(value, list(heads), allow_unused=True))
    if not balancer.second_look:
        balancer.advance(signals)
    return signals
