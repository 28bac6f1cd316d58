"""One network for each task, trained so that every mixture of their weights is a good trade-off.

Members θ_1 … θ_T, one for each task. Each step draws W points a ~ Dirichlet(p·1_T) and runs the
network at θ(a) = Σ_i a_i θ_i; the loss is Σ_a Σ_i a_i L_i(θ(a)) + λR. The ranking R says that a
larger a_i should mean a smaller L_i: with the draws sorted by a_i and E their W − 1 adjacent pairs,
R = Σ_i log(1/|E| Σ_(hi,lo)∈E exp([L_i(hi) − L_i(lo)]₊)), hi the one of larger a_i. Member i gets
a_i times the gradient at θ(a). Afterwards a network is served at any point of the simplex.

    >>> points = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    >>> float(ranking(torch.tensor([[0.2, 0.5], [0.5, 0.2]]), points))  # in the right order
    0.0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from plait.balancing.base import Balancer, Signals
from plait.data.seeding import generator
from plait.method import Card, Law, Need, Paper, resolve
from plait.networks import Network
from plait.networks.members import Members, members_of
from plait.training.engine import accumulate
from plait.training.procedures.base import Problem, Procedure, Validate
from plait.training.procedures.front import front_of
from plait.training.procedures.probing import kept, preferences_of, weighing


@final
@dataclass(frozen=True, kw_only=True)
class Pamal(Procedure):
    """Pareto manifold learning: T times the parameters, W times the work of a step.

    ``draws`` is W, ``concentration`` p, ``ranking`` λ (one draw has no order). A balancer weighs
    the tasks of each draw, and preferences multiply a. ``points`` of the front are measured on the
    validation rows at the end, and told as the event ``front``.
    """

    draws: int = 3
    concentration: float = 1.0
    ranking: float = 1.0
    points: int = 11

    card = Card(
        family="procedure",
        name="pamal",
        summary="Learns a whole front of networks between one member for each task.",
        paper=Paper(
            title="Pareto Manifold Learning: Tackling multiple tasks via ensembles of single-task "
            "models",
            authors="Dimitriadis, Nikolaos and Frossard, Pascal and Fleuret, François",
            year=2023,
            venue="ICML",
            url="https://arxiv.org/abs/2210.09759",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "The ranking has the sign of the paper; the released code punishes the right order.",
            "The ranking counts in every step; the released code skips it where it is large.",
            "The paper's own balancing of losses and gradients is left to the balancer.",
            "Running statistics of batch-norm are of all points together, not of each.",
        ),
        exceptions={
            "losses_are_those_of_the_start": "the losses told are means over the points drawn",
        },
    )

    def __post_init__(self) -> None:
        if self.draws < 1 or self.points < 2 or self.ranking < 0 or not self.concentration > 0:
            raise ValueError(
                "draws must be at least 1, points 2, ranking not negative, concentration positive"
            )

    def prepare(self, network: Network) -> Network:
        """The members; of a network that is not one yet it is the first."""
        return network if isinstance(network, Members) else members_of(network)

    def drawn(self, problem: Problem) -> Tensor:
        """The points [W, t], of the tasks present; they depend on the tasks' names only."""
        seed, step = problem.ground.seed, problem.step
        found = [
            generator(seed, "pamal", step, name).gamma(self.concentration, size=self.draws)
            for name in problem.tasks
        ]
        whole = np.maximum(np.stack(found, 1), 1e-12)
        return torch.from_numpy(whole / whole.sum(1, keepdims=True)).to(problem.ground.device)

    def gradients(self, problem: Problem, balancer: Balancer) -> Signals:
        """Fill every member's gradients; losses and weights told are means over the draws."""
        members = problem.network
        assert isinstance(members, Members)
        trained = [list(own.values()) for own in members.trained()]
        inner, places = (
            trained[0],
            [problem.ground.layout.names.index(n) for n in members.tasks.names],
        )
        there = [parameter.grad for parameter in inner]
        sums = [[torch.zeros_like(p) for p in own] for own in trained]
        told = []
        usual: Procedure = resolve("procedure", "plain")
        with kept(inner) as start:
            points = self.drawn(problem)
            shares = [problem.spread(point)[places].tolist() for point in points]
            every: list[Sequence[Tensor]] = [start, *trained[1:]]
            parts = self.looks(problem, members)
            weights = self.coefficients(
                parts, points, lambda number: _put(inner, every, shares[number])
            )
            for number, part in enumerate(parts):
                _put(inner, every, shares[number])
                for parameter in inner:
                    parameter.grad = None
                told.append(usual.gradients(weighing(part, weights[number]), balancer))
                for total, share in zip(sums, shares[number], strict=True):
                    for whole, parameter in zip(total, inner, strict=True):
                        if share and parameter.grad is not None:
                            whole.add_(parameter.grad, alpha=share)
        for parameter, old in zip(inner, there, strict=True):
            parameter.grad = old
        for own, total in zip(trained, sums, strict=True):
            accumulate(own, total)
        return _mean(told, preferences_of(problem))

    def looks(self, problem: Problem, members: Members) -> list[Problem]:
        """The step's work once for each draw, on a network of the members' shape."""
        ground = replace(problem.ground, network=members.first, memory=None)
        batch = problem.batch.only(set(problem.tasks))
        return [
            Problem(ground, batch, problem.step, part=(*problem.part, "draw", number))
            for number in range(self.draws)
        ]

    def coefficients(
        self, parts: Sequence[Problem], points: Tensor, put: Callable[[int], None]
    ) -> Tensor:
        """∂(Σ_i a_i L_i + λR)/∂L_i for every draw, [W, t]; ``put`` takes the network to a draw."""
        if not self.ranking or self.draws == 1:
            return points
        seen = []
        for number, part in enumerate(parts):
            put(number)
            seen.append(part.measure())
        losses = torch.stack(seen).to(points).requires_grad_()
        (slope,) = torch.autograd.grad(ranking(losses, points), losses)
        return points + self.ranking * slope

    def closing(self, network: Network, validate: Validate) -> Iterable[Mapping[str, Any]]:
        """The front on the validation rows, with the share of the box below its worst losses."""
        assert isinstance(network, Members)
        return (front_of(network, validate, self.points),)


def ranking(losses: Tensor, points: Tensor) -> Tensor:
    """R for losses [W, t] at points [W, t]."""
    order = points.argsort(dim=0, descending=True, stable=True)
    by_share = losses.gather(0, order)
    wrong = (by_share[:-1] - by_share[1:]).clamp(min=0)
    return (wrong.logsumexp(0) - math.log(len(wrong))).sum()


@torch.no_grad()
def _put(inner: list[Parameter], every: Sequence[Sequence[Tensor]], shares: list[float]) -> None:
    """Write Σ_i a_i θ_i into a network."""
    for place, parameter in enumerate(inner):
        parameter.data.zero_()
        for values, share in zip(every, shares, strict=True):
            if share:
                parameter.data.add_(values[place], alpha=share)


def _mean(told: Sequence[Signals], preferences: Tensor) -> Signals:
    """One step's signals of those of its draws."""
    losses = torch.stack([s.losses for s in told]).mean(0)
    weights = [s.weights for s in told if s.weights is not None]
    mean = torch.stack(weights).mean(0) if weights else None
    return replace(told[0], losses=losses, weights=mean, preferences=preferences)
