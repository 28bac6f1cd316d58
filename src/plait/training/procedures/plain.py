"""The usual step: one look at the batch, the balancer's weights, one update.

d = Σ_i α_i ∇L_i over the tasks present, α [t] from the balancer (on the Jacobian rung d itself).
Under micro-batches the losses, and the Jacobian, add up before the balancer sees them; one whose
weights depend on the losses costs a second forward of each piece then.

    >>> Plain().settings()
    {}
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.method import Card, Law, Need
from plait.training.engine import Gathered, accumulate, combine, place_of, weights_of
from plait.training.procedures.base import Problem, Procedure
from plait.training.procedures.surveys import proxied, sampled


@final
@dataclass(frozen=True, kw_only=True)
class Plain(Procedure):
    """One look, one update."""

    card = Card(
        family="procedure",
        name="plain",
        summary="One look at the batch, then one balanced update.",
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
    )

    def gradients(self, problem: Problem, balancer: Balancer) -> Signals:
        """Fill the gradients; the signals carry the weights."""
        if balancer.asks(problem.tasks, problem.step) is Rung.LOSSES:
            return _by_losses(problem, balancer)
        at = place_of(problem.ground.engine, balancer)
        if at != "shared":
            return _by_proxy(problem, balancer, at)
        parts: list[Gathered] = []
        if balancer.samples > 1:
            found, parts = sampled(problem, balancer.samples)
        else:
            found = problem.task_gradients(balancer)
        signals, updates = combine(balancer, problem.signals(found.losses), found.shared, parts)
        accumulate(problem.ground.shared, updates)
        problem.fill(balancer, signals, found)
        return signals


def _by_losses(problem: Problem, balancer: Balancer) -> Signals:
    if len(problem.pieces) == 1:
        losses, penalty = problem.look(0)
        signals = problem.signals(problem.ground.total(losses.value.detach()))
        weights = weights_of(balancer, signals)
        problem.descend(losses, penalty, weights, _raw(problem, balancer))
        problem.share()
        return replace(signals, weights=weights)
    if balancer.blind:
        unseen = torch.zeros_like(
            problem.units.total, dtype=problem.ground.layout.preferences.dtype
        )
        weights = weights_of(balancer, problem.told(unseen))
    else:
        weights = weights_of(balancer, problem.signals(problem.measure()))
    return replace(problem.signals(_descended(problem, balancer, weights)), weights=weights)


def _by_proxy(problem: Problem, balancer: Balancer, at: str) -> Signals:
    """Weights from gradients at the last layer or the features, then one pass for the update."""
    with problem.kept_buffers() if len(problem.pieces) > 1 else nullcontext():
        looks, value, found = proxied(problem, at)
    signals, _ = combine(balancer, problem.signals(value), found)
    assert signals.weights is not None
    if not looks:
        _descended(problem, balancer, signals.weights)
    for losses, penalty in looks:
        problem.descend(losses, penalty, signals.weights, _raw(problem, balancer))
        problem.share()
    return signals


def _descended(problem: Problem, balancer: Balancer, weights: Tensor) -> Tensor:
    """The losses [t] of the pieces, each of which has been descended."""
    seen = []
    for number in range(len(problem.pieces)):
        losses, penalty = problem.look(number)
        problem.descend(losses, penalty, weights, _raw(problem, balancer))
        seen.append(losses.value.detach())
    problem.share()
    return problem.ground.total(torch.stack(seen).sum(0))


def _raw(problem: Problem, balancer: Balancer) -> Tensor | None:
    """The heads' own weights [t], where they are not those of the balancer."""
    if balancer.weights_heads:
        return None
    return problem.units.pick(problem.ground.layout.preferences)
