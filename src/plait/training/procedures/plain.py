"""The usual step: one look at the batch, the balancer's weights, one update.

d = Σ_i α_i ∇L_i over the tasks present, α [t] from the balancer (on the Jacobian rung d itself).
Under micro-batches the losses, and the Jacobian, add up before the balancer sees them; one whose
weights depend on the losses costs a second forward of each piece then.

    >>> Plain().settings()
    {}
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch

from plait.balancing.base import Balancer, Rung, Signals
from plait.method import Card, Law, Need
from plait.training.engine import accumulate, combine, weights_of
from plait.training.procedures.base import Problem, Procedure


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
        if balancer.rung is not Rung.LOSSES:
            found = problem.task_gradients()
            signals, updates = combine(balancer, problem.signals(found.losses), found.blocks)
            accumulate(problem.ground.shared, updates)
            problem.fill(balancer, signals, found)
            return signals
        if len(problem.pieces) > 1:
            return _by_pieces(problem, balancer)
        losses, penalty = problem.look(0)
        signals = problem.signals(losses.value.detach())
        weights = weights_of(balancer, signals)
        problem.descend(losses, penalty, weights)
        return replace(signals, weights=weights)


def _by_pieces(problem: Problem, balancer: Balancer) -> Signals:
    if balancer.blind:
        unseen = torch.zeros_like(problem.units.total, dtype=torch.get_default_dtype())
        weights = weights_of(balancer, problem.told(unseen))
    else:
        weights = weights_of(balancer, problem.signals(problem.measure()))
    seen = []
    for number in range(len(problem.pieces)):
        losses, penalty = problem.look(number)
        problem.descend(losses, penalty, weights)
        seen.append(losses.value.detach())
    return replace(problem.signals(torch.stack(seen).sum(0)), weights=weights)
