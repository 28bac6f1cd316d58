"""``backward`` in several processes: replicas whose gradients are summed, or FSDP2 shards.

The loss of a task is the mean over the processes that have it (of :class:`Losses`: over all their
labels). ``DistributedDataParallel`` is not needed, and would sum a second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, Rung, Signals
from plait.training.engine.combine import accumulate, combine
from plait.training.engine.gather import Engine, gather
from plait.training.engine.held import products
from plait.training.engine.processes import Processes
from plait.training.engine.proxy import place_of
from plait.training.engine.roots import NotFiniteError, Root, read, signals_of, weights_of
from plait.training.measuring import Losses


def backward_parallel(
    losses: Losses | Mapping[str, Tensor],
    shared: list[nn.Parameter],
    balancer: Balancer,
    specific: Sequence[nn.Parameter] | None,
    engine: Engine,
    step: int | None,
    seed: int,
) -> Signals:
    """:func:`backward` on each process's own losses; every process gets the same update.

    Raises ``ValueError`` without ``specific``, by which processes agree on an order of the heads.
    """
    if specific is None:
        raise ValueError(
            "several processes must agree on the order of the heads, though each reaches its own "
            "tasks' only: name all that is not shared in `specific`"
        )
    processes = Processes(engine.group)
    _, mine = read(losses)
    names = processes.union(mine.tasks)
    balancer.bind((*balancer.tasks, *(task for task in names if task not in balancer.tasks)))
    place = torch.tensor([names.index(task) for task in mine.tasks], device=mine.value.device)
    value, told = _told(mine, names, place, processes)
    if not told.value.isfinite().all():
        finite = told.value.isfinite().tolist()
        raise NotFiniteError([name for name, ok in zip(names, finite, strict=True) if not ok])
    signals = signals_of(told, int(balancer.updates) if step is None else step, seed)
    heads = [parameter for parameter in specific if parameter.requires_grad]
    sharded = any(_is_sharded(parameter) for parameter in shared)
    if balancer.asks(names, signals.step) is Rung.LOSSES:
        signals = replace(signals, weights=weights_of(balancer, signals))
    elif sharded:
        _refuse(balancer, engine, sharded=True)
        signals = replace(signals, gram=_sharded_gram(value, shared, heads, processes))
        signals = replace(signals, weights=weights_of(balancer, signals))
    else:
        _refuse(balancer, engine, sharded=False)
        start = torch.eye(len(names), dtype=value.dtype, device=value.device)
        roots = [Root(value, start[i]) for i in place.tolist()]
        found = gather(roots, shared, engine, whole=True).spread(place, len(names))
        signals, updates = combine(balancer, signals, processes.gathered(found))
        accumulate(shared, updates)
        _fill(balancer, signals, value, heads, processes)
        if not balancer.second_look:
            balancer.advance(signals)
        return signals
    assert signals.weights is not None
    total = torch.dot(signals.weights.to(value.dtype), value)
    if sharded:
        _sharded_update(total, shared, heads, processes)
    else:
        mine_too = torch.autograd.grad(total, shared, retain_graph=True, allow_unused=True)
        accumulate(shared, processes.gradients(mine_too, shared))
    _fill(balancer, signals, value, heads, processes)
    if not balancer.second_look:
        balancer.advance(signals)
    return signals


def _told(
    mine: Losses, names: tuple[str, ...], place: Tensor, processes: Processes
) -> tuple[Tensor, Losses]:
    """One process's part [T] of every task's loss, with its graph, and the losses of all."""

    def spread(values: Tensor) -> Tensor:
        return values.new_zeros(len(names)).index_copy(0, place, values)

    units = processes.total(spread(mine.units))
    value = spread(mine.value) * spread(mine.units).to(mine.value) / units.to(mine.value)
    times = processes.total(spread(torch.ones_like(mine.units)))
    told = Losses(names, processes.total(value), units)
    if mine.preferences is not None:
        told = replace(told, preferences=processes.total(spread(mine.preferences.float())) / times)
    if mine.gaussian is not None:
        told = replace(told, gaussian=processes.total(spread(mine.gaussian.float())) > 0)
    return value, told


def _fill(
    balancer: Balancer,
    signals: Signals,
    value: Tensor,
    heads: list[nn.Parameter],
    processes: Processes,
) -> None:
    weights = signals.weights if balancer.weights_heads else None
    weights = signals.preferences if weights is None else weights
    if heads:
        total = torch.dot(weights.to(value.dtype), value)
        found = torch.autograd.grad(total, heads, allow_unused=True)
        accumulate(heads, processes.gradients(found, heads))


def _refuse(balancer: Balancer, engine: Engine, *, sharded: bool) -> None:
    wanted = {
        "gradients coordinate by coordinate": sharded and balancer.rung is Rung.JACOBIAN,
        "a Gramian for each layer": sharded and balancer.by_layer,
        "independent parts of a batch": balancer.samples > 1,
        "gradients at the last layer or the features": place_of(engine, balancer) != "shared",
    }
    for what, yes in wanted.items():
        if yes:
            where = "over sharded parameters" if sharded else "in several processes"
            raise ValueError(f"{balancer.card.name} needs {what}, which is not offered {where}")


# -- FSDP2 -----------------------------------------------------------------------------------------


def _is_sharded(parameter: Tensor) -> bool:
    return hasattr(parameter, "to_local")


def _sharded_gram(
    value: Tensor, shared: list[nn.Parameter], heads: list[nn.Parameter], processes: Processes
) -> Tensor:
    """The Gramian from a backward pass for each task, which every process runs for every task.

    ``autograd.grad`` would pass by the hooks that reduce and scatter, without an error.
    """
    every = 0 * value.sum()  # a process that lacks a task takes part in its pass with zeros
    rows = [_reduced(loss + every, shared, heads, processes) for loss in value]
    parts = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=value.device)
    whole = torch.zeros_like(parts)
    for parameter, gradients in zip(shared, zip(*rows, strict=True), strict=True):
        total = parts if _is_sharded(parameter) else whole
        total += products(torch.stack(gradients))
    return processes.total(parts) + whole


def _reduced(
    total: Tensor, shared: list[nn.Parameter], heads: list[nn.Parameter], processes: Processes
) -> list[Tensor]:
    """Σ over processes of the gradients of a scalar; what was in ``.grad`` comes back."""
    every = [*shared, *heads]
    known = [parameter.grad for parameter in every]
    for parameter in every:
        parameter.grad = None
    total.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    found = []
    for parameter in shared:
        gradient: Any = parameter.grad
        if _is_sharded(parameter):  # the mean over processes, reduced by the shard's own hooks
            local: Any = parameter
            empty = torch.zeros_like(local.to_local())
            found.append(empty if gradient is None else gradient.to_local() * processes.size)
        else:
            found.append(
                processes.total(torch.zeros_like(parameter) if gradient is None else gradient)
            )
    for parameter, old in zip(every, known, strict=True):
        parameter.grad = old
    return found


def _sharded_update(
    total: Tensor, shared: list[nn.Parameter], heads: list[nn.Parameter], processes: Processes
) -> None:
    """Add one weighted pass to the gradients, as shards of what the parameters are shards of."""
    from torch.distributed.tensor import DTensor

    updates = _reduced(total, shared, heads, processes)
    for parameter, gradient in zip(shared, updates, strict=True):
        update = gradient
        if isinstance(parameter, DTensor):
            update = DTensor.from_local(
                gradient,
                parameter.device_mesh,
                parameter.placements,
                shape=parameter.shape,
                stride=parameter.stride(),
            )
        accumulate([parameter], [update])
