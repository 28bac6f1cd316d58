"""From losses to gradients: the step from ``loss.backward()`` to several tasks.

A balancer on the losses' rung costs one backward pass of Σ α_i L_i. Higher rungs see exact per-task
gradients on the shared parameters, or their products, in the cheapest form there is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.equal import Equal
from plait.training.engine.combine import accumulate, combine
from plait.training.engine.fork import Fork, fork_of
from plait.training.engine.gather import Engine, gather
from plait.training.engine.gathered import Gathered
from plait.training.engine.parallel import backward_parallel
from plait.training.engine.passes import Own, differentiated
from plait.training.engine.proxy import at_features, at_last, place_of
from plait.training.engine.roots import (
    NotFiniteError,
    Root,
    names_of,
    only,
    read,
    signals_of,
    weights_of,
)
from plait.training.engine.samples import backward_samples
from plait.training.graph import check_reach, masks_of, reached
from plait.training.measuring import Losses

EXACT = Engine()


def backward(
    losses: Losses | Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
    shared: Iterable[nn.Parameter],
    balancer: Balancer | None = None,
    *,
    specific: Iterable[nn.Parameter] | None = None,
    features: Tensor | Sequence[Tensor] = (),
    validation: Mapping[str, Tensor | float] | None = None,
    engine: Engine = EXACT,
    step: int | None = None,
    seed: int = 0,
    allow_unused: bool = False,
) -> Signals:
    """Fill ``.grad`` with the balanced update: what ``loss.backward()`` is for one task.

    ``losses`` are scalars by task name, for the tasks that have labels in the batch; for a balancer
    of several samples (SDMGrad, MoDo) a list of such, one for each independent part of the batch.
    ``shared`` are the parameters that several tasks train, in the order of the layers; all others
    that the losses reach are heads, or are named in ``specific``. Gradients are added to those that
    are there. ``step`` keys random methods and is counted by the balancer when not given. A
    balancer with a second look (FAMO) wants ``balancer.advance(signals, losses_again)`` after the
    optimizer's step; others have advanced. One that learns from held-out rows (CoBa) takes their
    losses in ``validation``. ``Engine(at="features")`` wants the shared representation in
    ``features``, and ``Engine(group=...)`` in several processes all heads in ``specific``.

    A task whose loss (above the losses' rung also: gradient) is not finite is left out and named in
    ``signals.dropped``. In :class:`Losses`, one stacked tensor, its NaN would reach every gradient:
    :class:`NotFiniteError` names the task; repeat the step on ``batch.only`` the others. Raises
    ``ValueError`` for a shared parameter that no task reaches (unless ``allow_unused``), for one
    that several tasks reach but that is not in ``shared``, and where no task is finite.
    """
    balancer = balancer if balancer is not None else Equal()
    shared = [parameter for parameter in shared if parameter.requires_grad]
    given = [features] if isinstance(features, Tensor) else list(features)
    if engine.group is not None and isinstance(losses, (Losses, Mapping)):
        heads = None if specific is None else list(specific)
        return backward_parallel(losses, shared, balancer, heads, engine, step, seed)
    if not isinstance(losses, (Losses, Mapping)):
        return backward_samples(
            losses, shared, balancer, specific, engine, step, seed, allow_unused=allow_unused
        )
    roots, told, dropped = _finite_losses(losses)
    balancer.bind((*balancer.tasks, *(t for t in names_of(losses) if t not in balancer.tasks)))
    step = int(balancer.updates) if step is None else step
    held_out = _validation(balancer, told, validation)
    signals = replace(signals_of(told, step, seed, held_out), dropped=dropped)
    if balancer.asks(told.tasks, step) is Rung.LOSSES:
        signals = replace(signals, weights=weights_of(balancer, signals))
        _descend(balancer, signals, told, roots, shared)
    else:
        masks = masks_of(roots)
        reach = check_reach(
            masks, told.tasks, shared, specific, balancer.card.name, allow_unused=allow_unused
        )
        own = Own(roots, told.tasks, reach)
        signals = _climb(roots, told, shared, own, masks, balancer, signals, engine, given)
    if not balancer.second_look:
        balancer.advance(signals)
    return signals


def _finite_losses(
    losses: Losses | Mapping[str, Tensor],
) -> tuple[Sequence[Root], Losses, tuple[str, ...]]:
    """The roots and losses that are finite, and the tasks whose are not."""
    roots, told = read(losses)
    finite = told.value.detach().isfinite().tolist()
    dropped = tuple(task for task, ok in zip(told.tasks, finite, strict=True) if not ok)
    roots, told = only(roots, told, [i for i, ok in enumerate(finite) if ok])
    if not roots:
        raise ValueError(f"no task has a finite loss; not finite: {', '.join(dropped)}")
    if dropped and isinstance(losses, Losses):
        raise NotFiniteError(dropped)
    return roots, told, dropped


def _climb(
    roots: Sequence[Root],
    told: Losses,
    shared: list[nn.Parameter],
    own: Own,
    masks: Mapping[Any, int],
    balancer: Balancer,
    signals: Signals,
    engine: Engine,
    features: Sequence[Tensor],
) -> Signals:
    """The gradients of a balancer above the losses' rung."""
    if balancer.samples > 1:
        raise ValueError(
            f"{balancer.card.name} compares {balancer.samples} independent parts of a batch: pass "
            "a list of as many losses, one for each part"
        )
    at = place_of(engine, balancer)
    fork = fork_of(roots, masks, shared) if at == "features" else None
    if at == "features":
        found = at_features(roots, features, fork, own)
    elif at == "last":
        found = at_last(roots, shared, engine)
    else:
        found = gather(roots, shared, engine, balancer, masks=masks, own=own)
    roots, told, found, signals = _finite_gradients(
        roots, told, found, signals, products=balancer.rung is Rung.GRAM
    )
    signals, updates = combine(balancer, signals, found)
    start = updates[0] if _parted_at(features, fork) else None
    if start is not None:
        updates = differentiated(features, shared, [start])
    elif at != "shared":
        _descend(balancer, signals, told, roots, shared)
        return signals
    accumulate(shared, updates)
    _fill(balancer, signals, told, own)
    return signals


def _parted_at(features: Sequence[Tensor], fork: Fork | None) -> bool:
    """Whether the losses are made of one feature, and of nothing shared besides."""
    return fork is not None and len(features) == 1 and fork.is_at(features[0])


def _finite_gradients(
    roots: Sequence[Root], told: Losses, found: Gathered, signals: Signals, *, products: bool
) -> tuple[Sequence[Root], Losses, Gathered, Signals]:
    """The same without the tasks whose gradient is not finite."""
    finite = found.finite(products=products).tolist()
    if all(finite):
        return roots, told, found, signals
    lost = tuple(task for task, ok in zip(told.tasks, finite, strict=True) if not ok)
    kept = [i for i, ok in enumerate(finite) if ok]
    if not kept:
        raise ValueError(f"no task has a finite gradient: {', '.join(lost)}")
    if roots[0].cotangent is not None:  # one graph: what is finite may be spoilt as well
        raise NotFiniteError(lost)
    roots, told = only(roots, told, kept)
    held_out = None if signals.validation is None else signals.validation[kept]
    fewer = signals_of(told, signals.step, signals.seed, held_out)
    return roots, told, found.only(kept), replace(fewer, dropped=(*signals.dropped, *lost))


def _descend(
    balancer: Balancer,
    signals: Signals,
    told: Losses,
    roots: Sequence[Root],
    shared: list[nn.Parameter],
) -> None:
    """One backward pass of Σ α_i L_i; raw heads take another, through the heads alone."""
    assert signals.weights is not None
    total = torch.dot(signals.weights.to(told.value.dtype), told.value)
    if balancer.weights_heads:
        total.backward()  # type: ignore[no-untyped-call]
        return
    known = set(shared)
    heads = {p: mask for p, mask in reached(masks_of(roots)).items() if p not in known}
    found = torch.autograd.grad(total, shared, retain_graph=True, allow_unused=True)
    accumulate(shared, found)
    _fill(balancer, signals, told, Own((), told.tasks, heads))


def _fill(balancer: Balancer, signals: Signals, told: Losses, own: Own) -> None:
    """The gradients of what is not shared: weighted or, as where there are no weights, raw."""
    weights = signals.weights if balancer.weights_heads else None
    weights = signals.preferences if weights is None else weights
    factors = dict(zip(signals.tasks, weights.tolist(), strict=True))
    for task, parameters, gradients in own.found:
        if task in factors:
            accumulate(parameters, [_times(factors[task], gradient) for gradient in gradients])
    rest = own.rest
    if rest:
        total = torch.dot(weights.to(told.value.dtype), told.value)
        accumulate(rest, torch.autograd.grad(total, rest, allow_unused=True))


def _times(factor: float, gradient: Tensor | None) -> Tensor | None:
    return gradient if gradient is None or factor == 1 else gradient * factor


def _validation(
    balancer: Balancer, told: Losses, given: Mapping[str, Tensor | float] | None
) -> Tensor | None:
    """The losses on held-out rows [t], NaN where a task has none."""
    if not balancer.needs_validation:
        return None
    if given is None:
        raise ValueError(
            f"{balancer.card.name} learns from losses on held-out rows: pass them by task name as "
            "`validation`"
        )
    values = [float(given.get(task, math.nan)) for task in told.tasks]
    return told.value.detach().new_tensor(values)
