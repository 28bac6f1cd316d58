"""From losses to gradients: the step from ``loss.backward()`` to several tasks.

A balancer on the losses' rung costs one backward pass of Σ α_i L_i. Higher rungs see exact per-task
gradients on the shared parameters: their Jacobian [t, P] is held in blocks, one for each parameter,
and the Gramian is their sum in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.equal import Equal
from plait.training.graph import check_reach
from plait.training.measuring import Losses

FEW = 2**20  # parameters
Blocks = list[Tensor | None]  # per shared parameter the task gradients [t, *shape]; None: unreached


@dataclass(frozen=True)
class Engine:
    """How exact task gradients are obtained: ``chunk`` tasks in one batched backward pass.

    None takes sixteen together where the shared parameters are few, because there most of the time
    goes into starting operations, and one by one otherwise, which needs least memory.
    """

    chunk: int | None = None

    def tasks_together(self, parameters: Sequence[nn.Parameter]) -> int:
        """How many tasks share a backward pass."""
        if self.chunk is not None:
            return self.chunk
        return 16 if sum(parameter.numel() for parameter in parameters) <= FEW else 1


class NotFiniteError(ArithmeticError):
    """Some tasks' losses or gradients are not finite."""

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(
            f"loss or gradient not finite: {', '.join(tasks)}; leave the records of these tasks "
            "out of the batch (`batch.only`) and repeat the step"
        )
        self.tasks = tuple(tasks)


def backward(
    losses: Losses | Mapping[str, Tensor],
    shared: Iterable[nn.Parameter],
    balancer: Balancer | None = None,
    *,
    specific: Iterable[nn.Parameter] | None = None,
    engine: Engine = Engine(),
    step: int | None = None,
    seed: int = 0,
    allow_unused: bool = False,
) -> Signals:
    """Fill ``.grad`` with the balanced update: what ``loss.backward()`` is for one task.

    ``losses`` are scalars by task name, for the tasks that have labels in the batch. ``shared`` are
    the parameters that several tasks train; all others that the losses reach are heads, or are
    named in ``specific``. Gradients are added to those that are there. ``step`` keys random methods
    and is counted by the balancer when not given. A balancer with a second look (FAMO) wants
    ``balancer.advance(signals, losses_again)`` after the optimizer's step; others have advanced.

    A task whose loss (above the losses' rung also: gradient) is not finite is left out and named in
    ``signals.dropped``. In :class:`Losses`, one stacked tensor, its NaN would reach every gradient:
    :class:`NotFiniteError` names the task; repeat the step on ``batch.only`` the others. Raises
    ``ValueError`` for a shared parameter that no task reaches (unless ``allow_unused``), for one
    that several tasks reach but that is not in ``shared``, and where no task is finite.
    """
    balancer = balancer if balancer is not None else Equal()
    roots: Sequence[Root]
    roots, told = _read(losses)
    balancer.bind((*balancer.tasks, *(t for t in told.tasks if t not in balancer.tasks)))
    finite = told.value.detach().isfinite()
    kept = finite.nonzero()[:, 0].tolist()
    roots, told = _only(roots, told, kept)
    dropped = tuple(t for t, ok in zip(_names(losses), finite.tolist(), strict=True) if not ok)
    if not roots:
        raise ValueError(f"no task has a finite loss; not finite: {', '.join(dropped)}")
    if dropped and isinstance(losses, Losses):
        raise NotFiniteError(dropped)
    signals = signals_of(told, int(balancer.updates) if step is None else step, seed)
    signals = replace(signals, dropped=dropped)
    if balancer.rung is Rung.LOSSES:
        weights = weights_of(balancer, signals)
        torch.dot(weights.to(told.value.dtype), told.value).backward()  # type: ignore[no-untyped-call]
        signals = replace(signals, weights=weights)
    else:
        parameters = [p for p in shared if p.requires_grad]
        heads = check_reach(
            roots, told.tasks, parameters, specific, balancer.card.name, allow_unused=allow_unused
        )
        signals = _climb(roots, told, parameters, heads, balancer, signals, engine)
    if not balancer.second_look:
        balancer.advance(signals)
    return signals


def _climb(
    roots: Sequence[Root],
    told: Losses,
    shared: list[nn.Parameter],
    heads: list[nn.Parameter],
    balancer: Balancer,
    signals: Signals,
    engine: Engine,
) -> Signals:
    blocks = task_gradients(roots, shared, engine)
    finite = diagonal(blocks, len(roots)).isfinite()
    if not finite.all():
        lost = tuple(t for t, ok in zip(told.tasks, finite.tolist(), strict=True) if not ok)
        kept = finite.nonzero()[:, 0].tolist()
        if not kept:
            raise ValueError(f"no task has a finite gradient: {', '.join(lost)}")
        if roots[0].cotangent is not None:  # one graph: what is finite may be spoilt as well
            raise NotFiniteError(lost)
        _, told = _only(roots, told, kept)
        blocks = [None if block is None else block[kept] for block in blocks]
        signals = replace(
            signals_of(told, signals.step, signals.seed), dropped=(*signals.dropped, *lost)
        )
    signals, updates = combine(balancer, signals, blocks)
    accumulate(shared, updates)
    if heads:
        weights = signals.weights if balancer.weights_heads else signals.preferences
        assert weights is not None
        total = torch.dot(weights.to(told.value.dtype), told.value)
        accumulate(heads, torch.autograd.grad(total, heads, allow_unused=True))
    return signals


@dataclass(frozen=True)
class Root:
    """Where one task's backward pass starts: an output and its cotangent (None: a scalar's 1)."""

    output: Tensor
    cotangent: Tensor | None = None


def roots_of(losses: Losses) -> list[Root]:
    """The entries of stacked losses, times the user's preferences."""
    start = torch.eye(len(losses.tasks), dtype=losses.value.dtype, device=losses.value.device)
    if losses.preferences is not None:
        start = start * losses.preferences
    return [Root(losses.value, row) for row in start]


def task_gradients(
    roots: Sequence[Root], parameters: Sequence[nn.Parameter], engine: Engine
) -> Blocks:
    """Every task's gradient on every parameter: a block [t, *shape] each, None where unreached.

    The graph is kept for what follows.
    """
    blocks: Blocks = [None] * len(parameters)
    chunk = engine.tasks_together(parameters) if _one_graph(roots) else 1
    for low in range(0, len(roots), chunk):
        some = roots[low : low + chunk]
        for k, rows in enumerate(_rows(some, parameters, strict=engine.chunk is not None)):
            if rows is None:
                continue
            block = blocks[k]
            if block is None:
                block = blocks[k] = rows.new_zeros(len(roots), *parameters[k].shape)
            block[low : low + len(some)] = rows
    return blocks


def _one_graph(roots: Sequence[Root]) -> bool:
    return all(r.cotangent is not None and r.output is roots[0].output for r in roots)


def _rows(
    roots: Sequence[Root], parameters: Sequence[nn.Parameter], *, strict: bool
) -> list[Tensor | None]:
    """Gradients [some tasks, *shape] on every parameter."""
    given: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
    if len(roots) == 1:
        found = torch.autograd.grad(roots[0].output, parameters, roots[0].cotangent, **given)
        return [None if gradient is None else gradient[None] for gradient in found]
    starts = torch.stack([root.cotangent for root in roots if root.cotangent is not None])
    try:
        return list(
            torch.autograd.grad(roots[0].output, parameters, starts, is_grads_batched=True, **given)
        )
    except RuntimeError:  # a function in the network that cannot be run for several tasks at once
        if strict:
            raise
    alone = [_rows([root], parameters, strict=False) for root in roots]
    return [
        None if rows[0] is None else torch.cat([row for row in rows if row is not None])
        for rows in zip(*alone, strict=True)
    ]


def gramian(blocks: Blocks, count: int) -> Tensor:
    """Inner products of the task gradients [t, t], summed over blocks in float64."""
    total: Tensor | None = None
    for block in blocks:
        if block is not None:
            flat = block.flatten(1)
            flat = flat if flat.dtype == torch.float64 else flat.float()
            part = flat @ flat.T
            part = part if part.device.type == "mps" else part.double()
            total = part if total is None else total + part
    return total if total is not None else torch.zeros(count, count, dtype=torch.float64)


def diagonal(blocks: Blocks, count: int) -> Tensor:
    """Squared norms of the task gradients [t]."""
    parts = [block.flatten(1).float().square().sum(1) for block in blocks if block is not None]
    return torch.stack(parts).sum(0) if parts else torch.zeros(count)


def combine(
    balancer: Balancer, signals: Signals, blocks: Blocks
) -> tuple[Signals, list[Tensor | None]]:
    """The balanced update of every shared parameter, and the signals with what was seen."""
    if balancer.rung is Rung.JACOBIAN:
        flat = [block.flatten(1) for block in blocks if block is not None]
        signals = replace(signals, jacobian=torch.cat(flat, 1))
        pieces = iter(balancer(signals).split([part.shape[1] for part in flat]))
        return signals, [None if b is None else next(pieces).view(b.shape[1:]) for b in blocks]
    if balancer.rung is Rung.GRAM:
        signals = replace(signals, gram=gramian(blocks, len(signals.tasks)))
    raw = balancer(signals)  # the preferences are in the blocks already
    updates = [None if b is None else torch.tensordot(raw.to(b), b, 1) for b in blocks]
    return replace(signals, weights=raw * signals.preferences.to(raw)), updates


def weights_of(balancer: Balancer, signals: Signals) -> Tensor:
    """What multiplies each loss [t], the user's preferences included."""
    weights: Tensor = balancer(signals)
    return weights * signals.preferences.to(weights)


def signals_of(losses: Losses, step: int, seed: int) -> Signals:
    """The signals of the losses' rung."""
    value = losses.value.detach()
    preferences, gaussian = losses.preferences, losses.gaussian
    return Signals(
        tasks=losses.tasks,
        losses=value,
        counts=losses.units,
        preferences=torch.ones_like(value) if preferences is None else preferences,
        gaussian=torch.zeros_like(value, dtype=torch.bool) if gaussian is None else gaussian,
        step=step,
        seed=seed,
    )


def accumulate(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Add gradients to those that are there, as a backward pass does."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            old = parameter.grad
            parameter.grad = gradient if old is None else old + gradient


def _names(losses: Losses | Mapping[str, Tensor]) -> tuple[str, ...]:
    return losses.tasks if isinstance(losses, Losses) else tuple(losses)


def _read(losses: Losses | Mapping[str, Tensor]) -> tuple[list[Root], Losses]:
    if isinstance(losses, Losses):
        return roots_of(losses), losses
    if not losses:
        raise ValueError("no losses; leave the step out when no task has a label in the batch")
    for name, value in losses.items():
        if value.numel() != 1:
            raise ValueError(f"the loss of task {name!r} must be a scalar, got {value.shape}")
        if not value.requires_grad:
            raise ValueError(f"the loss of task {name!r} has no graph: it depends on no parameter")
    values = [value.reshape(()) for value in losses.values()]
    stacked = torch.stack(values)
    told = Losses(tuple(losses), stacked, torch.ones_like(stacked.detach()))
    return [Root(value) for value in values], told


def _only(roots: Sequence[Root], losses: Losses, kept: list[int]) -> tuple[Sequence[Root], Losses]:
    """Some of the tasks. Scalars are stacked anew: a zero cotangent times NaN would be NaN."""
    if len(kept) == len(losses.tasks):
        return roots, losses
    preferences, gaussian = losses.preferences, losses.gaussian
    roots = [roots[i] for i in kept]
    alone = bool(roots) and all(root.cotangent is None for root in roots)
    value = torch.stack([root.output for root in roots]) if alone else losses.value[kept]
    return roots, Losses(
        tuple(losses.tasks[i] for i in kept),
        value,
        losses.units[kept],
        None if preferences is None else preferences[kept],
        None if gaussian is None else gaussian[kept],
    )
