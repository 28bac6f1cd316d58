"""From losses to gradients: the step from ``loss.backward()`` to several tasks.

A balancer on the losses' rung costs one backward pass of Σ α_i L_i. Higher rungs see exact per-task
gradients on the shared parameters, or their products, in the cheapest form there is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

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
from plait.training.engine.processes import world
from plait.training.engine.proxy import at_features, at_last, place_of
from plait.training.engine.roots import (
    NotFiniteError,
    Root,
    names_of,
    only,
    read,
    signals_of,
    trained,
    weights_of,
)
from plait.training.engine.samples import backward_samples
from plait.training.engine.scaling import Scaling, overflown
from plait.training.graph import Graph, check_reach
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
    share: float = 1.0,
    scaler: torch.amp.GradScaler | None = None,
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

    ``share`` multiplies what is added, once the balancer has seen the whole of it: 1/k in a loop
    that accumulates k batches. With a ``scaler`` the passes run on scaled losses, the balancer sees
    what is unscaled, and ``.grad`` is scaled, as ``scaler.step`` expects; where task gradients
    overflow it holds an infinity, so that the scaler skips the step, and the balancer stays.

    A task whose loss (above the losses' rung also: gradient) is not finite is left out and named in
    ``signals.dropped``. In :class:`Losses`, one stacked tensor, its NaN would reach every gradient:
    :class:`NotFiniteError` names the task; repeat the step on ``batch.only`` the others. Raises
    ``ValueError`` for a shared parameter that no task reaches (unless ``allow_unused``), for one
    that several tasks reach but that is not in ``shared``, and where no task is finite.
    """
    balancer = balancer if balancer is not None else Equal()
    shared = trained(shared, balancer)
    _check_ways(losses, engine, scaler, share)
    if not isinstance(losses, (Losses, Mapping)):
        return backward_samples(
            losses, shared, balancer, specific, engine, step, seed, allow_unused=allow_unused
        )
    if engine.group is not None:
        heads = None if specific is None else list(specific)
        return backward_parallel(losses, shared, balancer, heads, engine, step, seed)
    roots, told, dropped = _finite_losses(losses)
    balancer.bind((*balancer.tasks, *(t for t in names_of(losses) if t not in balancer.tasks)))
    step = int(balancer.updates) if step is None else step
    held_out = _validation(balancer, told, validation)
    signals = signals_of(told, step, seed, held_out, dropped)
    work = Work.of(roots, told, shared, balancer, Scaling.of(scaler, told, share))
    return work.done(signals, engine, features, specific, allow_unused=allow_unused)


def _check_ways(
    losses: object, engine: Engine, scaler: torch.amp.GradScaler | None, share: float
) -> None:
    """Refuse what one process alone can do, in several, and several that do not say so."""
    one = engine.group is None and isinstance(losses, (Losses, Mapping))
    if not one and (scaler is not None or share != 1):
        raise ValueError(
            "`scaler` and `share` are for the losses of one process and one batch; bfloat16 needs "
            "no scaler"
        )
    if engine.group is None and world() is not None:
        raise ValueError(
            "several processes are running, and each would go its own way: pass Engine(group="
            "torch.distributed.group.WORLD) to sum over them, or a group of this process alone"
        )


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


@dataclass
class Work:
    """One backward pass over several tasks: where it starts, and whom it asks."""

    roots: Sequence[Root]
    told: Losses
    shared: list[nn.Parameter]
    balancer: Balancer
    scaling: Scaling

    @classmethod
    def of(
        cls,
        roots: Sequence[Root],
        told: Losses,
        shared: list[nn.Parameter],
        balancer: Balancer,
        scaling: Scaling,
    ) -> Work:
        """The work on losses, scaled."""
        roots, told = scaling.started(roots, told)
        return cls(roots, told, shared, balancer, scaling)

    def done(
        self,
        signals: Signals,
        engine: Engine,
        features: Tensor | Sequence[Tensor],
        specific: Iterable[nn.Parameter] | None,
        *,
        allow_unused: bool,
    ) -> Signals:
        """Fill the gradients and move the balancer."""
        balancer = self.balancer
        if balancer.asks(self.told.tasks, signals.step) is Rung.LOSSES:
            signals = replace(signals, weights=weights_of(balancer, signals))
            self.descend(signals)
        else:
            graph = Graph.of(self.roots)
            heads = check_reach(
                graph,
                self.told.tasks,
                self.shared,
                specific,
                balancer.card.name,
                allow_unused=allow_unused,
            )
            own = Own(self.roots, self.told.tasks, heads)
            given = [features] if isinstance(features, Tensor) else list(features)
            climbed = self.climb(signals, engine, given, graph, own)
            if climbed is None:
                overflown(self.shared)
                return replace(signals, dropped=(*signals.dropped, *signals.tasks))
            signals = climbed
        if not balancer.second_look:
            balancer.advance(signals)
        return signals

    def climb(
        self,
        signals: Signals,
        engine: Engine,
        features: Sequence[Tensor],
        graph: Graph,
        own: Own,
    ) -> Signals | None:
        """The gradients of a balancer above the losses' rung; None where they overflow."""
        balancer, roots, shared = self.balancer, self.roots, self.shared
        if balancer.samples > 1:
            raise ValueError(
                f"{balancer.card.name} compares {balancer.samples} independent parts of a batch: "
                "pass a list of as many losses, one for each part"
            )
        at = place_of(engine, balancer)
        fork = fork_of(roots, graph, shared) if at == "features" else None
        if at == "features":
            found = at_features(roots, features, fork, own)
        elif at == "last":
            found = at_last(roots, shared, engine)
        else:
            found = gather(roots, shared, engine, balancer, graph=graph, own=own)
        found = self.scaling.unscaled(found)
        finite = found.finite(products=balancer.rung is Rung.GRAM).tolist()
        if not all(finite):
            if self.scaling.scale is not None:
                return None
            found, signals = self.without([i for i, ok in enumerate(finite) if ok], found, signals)
        signals, updates = combine(balancer, signals, found)
        start = updates[0] if _parted_at(features, fork) else None
        if start is None and at != "shared":
            self.descend(signals)
            return signals
        updates = self.scaling.kept(updates)
        if start is not None:
            updates = differentiated(features, shared, updates)
        accumulate(shared, updates)
        self.fill(signals, own)
        return signals

    def without(
        self, kept: list[int], found: Gathered, signals: Signals
    ) -> tuple[Gathered, Signals]:
        """The gradients and signals of some tasks, the others' not being finite."""
        tasks = self.told.tasks
        lost = tuple(task for place, task in enumerate(tasks) if place not in kept)
        if not kept:
            raise ValueError(f"no task has a finite gradient: {', '.join(lost)}")
        if self.roots[0].cotangent is not None:  # one graph: what is finite may be spoilt as well
            raise NotFiniteError(lost)
        self.roots, self.told = only(self.roots, self.told, kept)
        held_out = None if signals.validation is None else signals.validation[kept]
        dropped = (*signals.dropped, *lost)
        fewer = signals_of(self.told, signals.step, signals.seed, held_out, dropped)
        return found.only(kept), fewer

    def descend(self, signals: Signals) -> None:
        """One backward pass of Σ α_i L_i; raw heads take another, through the heads alone."""
        assert signals.weights is not None
        total = self.total(signals.weights)
        if self.balancer.weights_heads:
            total.backward()  # type: ignore[no-untyped-call]
            return
        known = set(self.shared)
        reach = Graph.of(self.roots).reached
        heads = {parameter: mask for parameter, mask in reach.items() if parameter not in known}
        accumulate(self.shared, differentiated([total], self.shared, [None]))
        self.fill(signals, Own((), self.told.tasks, heads))

    def fill(self, signals: Signals, own: Own) -> None:
        """The gradients of what is not shared: weighted or, as where there are no weights, raw."""
        weights = signals.weights if self.balancer.weights_heads else None
        weights = signals.preferences if weights is None else weights
        factors = dict(zip(signals.tasks, weights.tolist(), strict=True))
        for task, parameters, gradients in own.found:
            if task in factors:
                accumulate(parameters, _times(factors[task] * self.scaling.share, gradients))
        rest = own.rest
        if rest:
            found = torch.autograd.grad(self.total(weights), rest, allow_unused=True)
            accumulate(rest, found)

    def total(self, weights: Tensor) -> Tensor:
        """Σ_i w_i L_i, as it is to be added."""
        value = torch.dot(weights.to(self.told.value.dtype), self.told.value)
        return value if self.scaling.share == 1 else value * self.scaling.share


def _parted_at(features: Sequence[Tensor], fork: Fork | None) -> bool:
    """Whether the losses are made of one feature, and of nothing shared besides."""
    return fork is not None and len(features) == 1 and fork.is_at(features[0])


def _times(factor: float, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    if factor == 1:
        return gradients
    return [None if gradient is None else gradient * factor for gradient in gradients]


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
