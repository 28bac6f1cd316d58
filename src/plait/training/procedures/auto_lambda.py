"""Task weights follow the held-out losses of the tasks that matter.

With weights λ [T]: θ' = θ − η Σ_i λ_i ∇L_i(θ), all parameters; u = ∇_θ' Σ_{k primary} L_k^val(θ'),
[P]. The derivative of that held-out loss by λ_i is −η⟨∇L_i(θ), u⟩, found as the difference of the
losses [T] along u, −η(L(θ + εu) − L(θ − εu))/2ε with ε = 0.01/‖u‖. On it Adam moves λ; then comes
one usual step on Σ_i λ_i L_i. An auxiliary task helps as far as its gradient agrees with u.

    >>> AutoLambda(primary=("click",)).settings()["start"]
    0.1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Signals
from plait.method import Card, Law, Need, Paper, resolve
from plait.networks import Network
from plait.training.procedures.base import Problem, Procedure
from plait.training.procedures.learnt import Learnt
from plait.training.procedures.probing import (
    evenly,
    kept,
    on,
    preferences_of,
    step_back,
    summed,
    weighing,
)

PROBE = 0.01  # how far along a direction the losses are compared


@final
@dataclass(frozen=True, kw_only=True)
class AutoLambda(Procedure):
    """Bilevel weights from held-out rows; a balancer sees the weighted losses.

    ``primary`` names the tasks whose held-out loss counts (None: all); ``start`` is λ at first,
    ``lookahead`` η, ``rate`` Adam's on λ, which may turn negative. Costs two passes and three
    forwards more than a step, whatever T; the two along u are in the network's own precision.
    """

    primary: Sequence[str] | None = None
    start: float = 0.1
    lookahead: float = 0.1
    rate: float = 1e-4

    needs_validation = True
    card = Card(
        family="procedure",
        name="auto_lambda",
        summary="Learns task weights from the held-out loss of chosen tasks.",
        paper=Paper(
            title="Auto-Lambda: Disentangling Dynamic Task Relationships",
            authors="Liu, Shikun and James, Stephen and Davison, Andrew J. and Johns, Edward",
            year=2022,
            venue="TMLR",
            url="https://arxiv.org/abs/2202.03091",
        ),
        needs=frozenset({Need.BACKWARD, Need.VALIDATION}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "The step ahead has a length η of its own, without momentum and weight decay.",
        ),
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"primary": "values"}

    def __post_init__(self) -> None:
        if not (self.lookahead > 0 and self.rate > 0 and self.start > 0):
            raise ValueError("start, lookahead and rate must be positive")
        if self.primary is not None and not self.primary:
            raise ValueError("primary names no task; leave it out to count all")

    def memory(self, network: Network) -> Learnt:
        """λ less its start."""
        unknown = set(self.primary or ()).difference(network.tasks.names)
        if unknown:
            raise ValueError(f"primary names tasks that do not exist: {sorted(unknown)}")
        return Learnt(network.tasks.names)

    def gradients(self, problem: Problem, balancer: Balancer) -> Signals:
        """Fill the gradients of the weighted losses; ``preferences`` carry the weights."""
        memory = problem.ground.memory
        assert isinstance(memory, Learnt)
        with problem.kept_buffers():
            signals, slope = self._slope(problem, memory)
        weights = self.start + memory.propose(signals, slope, self.rate)
        usual: Procedure = resolve("procedure", "plain")
        return usual.gradients(weighing(problem, weights), balancer)

    def advance(self, problem: Problem, signals: Signals) -> None:  # noqa: ARG002
        """Take the new weights over."""
        memory = problem.ground.memory
        assert isinstance(memory, Learnt)
        memory.settle()

    def _slope(self, problem: Problem, memory: Learnt) -> tuple[Signals, Tensor]:
        """The signals here, and the held-out loss's gradient on λ [t]."""
        here = evenly(problem)
        signals = problem.signals(here.measure())
        weights = (self.start + memory.recall("value", signals)) * preferences_of(problem)
        chosen = [n for n in problem.tasks if self.primary is None or n in self.primary]
        other = evenly(problem.held_out(), chosen)
        if not other.tasks:
            return signals, torch.zeros_like(weights)
        parameters = problem.ground.parameters
        with kept(parameters):
            step_back(parameters, summed(here, weights), self.lookahead)
            ahead = summed(other, torch.ones(len(other.tasks)), penalties=False)
        along = derivatives(here, ahead).to(weights)
        return signals, -self.lookahead * along * preferences_of(problem)


@torch.no_grad()
def derivatives(problem: Problem, direction: Sequence[Tensor | None]) -> Tensor:
    """⟨∇L_i, u⟩ of every task [t] for a direction u: two forwards, whatever t."""
    parameters = problem.ground.parameters
    sizes = torch.stack([part.double().norm() for part in direction if part is not None])
    length = float(sizes.norm())
    if not length:
        return torch.zeros(len(problem.tasks), device=problem.ground.device)
    reach = PROBE / length
    wide = on(replace(problem.ground, autocast=False), problem)
    ends = []
    for rate in (-reach, reach):
        with kept(parameters):
            step_back(parameters, direction, rate)
            ends.append(wide.measure().double())
    return (ends[0] - ends[1]) / (2 * reach)
