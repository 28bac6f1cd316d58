"""Looking at a step with other weights or parameters than its own, which come back exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from plait.training.procedures.base import Ground, Problem, TaskGradients


@contextmanager
def kept(parameters: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
    """Copies of the parameters' values, which are put back at the end."""
    old = [parameter.detach().clone() for parameter in parameters]
    try:
        yield old
    finally:
        for parameter, value in zip(parameters, old, strict=True):
            parameter.data.copy_(value)


def on(ground: Ground, problem: Problem, tasks: Sequence[str] | None = None) -> Problem:
    """The same work on another ground, with the records of some tasks only."""
    there = set(problem.tasks) if tasks is None else set(tasks).intersection(problem.tasks)
    return Problem(ground, problem.batch.only(there), problem.step, part=problem.part)


def weighing(problem: Problem, weights: Tensor) -> Problem:
    """The same work, each task's loss times its weight [t] besides the user's preference."""
    layout = problem.ground.layout
    whole = problem.spread(weights)
    return on(problem.ground.preferring(layout.preferences.to(whole) * whole), problem)


def evenly(problem: Problem, tasks: Sequence[str] | None = None) -> Problem:
    """The same work without the user's preferences."""
    ground = problem.ground
    return on(ground.preferring(torch.ones_like(ground.layout.preferences)), problem, tasks)


def preferences_of(problem: Problem) -> Tensor:
    """The user's preferences of the tasks present, [t]."""
    return problem.units.pick(problem.ground.layout.preferences)


@torch.no_grad()
def step_back(
    parameters: Sequence[nn.Parameter], gradient: Sequence[Tensor | None], rate: float
) -> None:
    """Move parameters by −rate·gradient."""
    for parameter, part in zip(parameters, gradient, strict=True):
        if part is not None:
            parameter.data.sub_(rate * part)


def summed(problem: Problem, weights: Tensor, *, penalties: bool = True) -> list[Tensor | None]:
    """The gradient of Σ_i w_i L_i and the penalties on all parameters, w [t]."""
    ground = problem.ground
    found: list[Tensor | None] = [None] * len(ground.parameters)
    losses_seen = []
    for number in range(len(problem.pieces)):
        losses, penalty = problem.look(number)
        losses_seen.append(losses.value.detach())
        if not losses.value.requires_grad:  # another process has the labels
            continue
        value = torch.dot(weights.to(losses.value), losses.value)
        if penalties and penalty is not None:
            value = value + penalty
        here = torch.autograd.grad(value, ground.parameters, allow_unused=True)
        found = [_plus(a, b) for a, b in zip(found, here, strict=True)]
    problem.signals(ground.total(torch.stack(losses_seen).sum(0)))  # refuses what is not finite
    return ground.gradients(found, ground.parameters)


def _plus(one: Tensor | None, two: Tensor | None) -> Tensor | None:
    return two if one is None else one if two is None else one + two


def combined(problem: Problem, found: TaskGradients, weights: Tensor) -> list[Tensor | None]:
    """The same from task gradients that are at hand."""
    shared = [
        None if block is None else torch.tensordot(weights.to(block), block, dims=1)
        for block in found.blocks
    ]
    both = [*shared, *problem.weighed(found.heads, weights)]
    extra = found.penalties or [None] * len(both)
    return [_plus(a, b) for a, b in zip(both, extra, strict=True)]


def cross_products(one: Problem, ones: TaskGradients, two: Problem, twos: TaskGradients) -> Tensor:
    """⟨∇L_s of the first, ∇L_t of the second⟩ over all parameters, [s, t] in float64.

    Both are on one network. What is a task's own meets where the task is in both.
    """
    found = torch.zeros(len(one.tasks), len(two.tasks), dtype=torch.float64)
    for a, b in zip(ones.blocks, twos.blocks, strict=True):
        if a is not None and b is not None:
            found += (a.flatten(1).double() @ b.flatten(1).double().T).cpu()
    ground = one.ground
    own = torch.zeros(len(ground.layout.names), dtype=torch.float64)
    for parameter, a, b in zip(ground.specific, ones.heads, twos.heads, strict=True):
        if a is not None and b is not None:
            places = ground.places(parameter).cpu()
            product = (a.double() * b.double()).reshape(len(places), -1).sum(1)
            own.index_add_(0, places, product.cpu())
    for s, name in enumerate(one.tasks):
        if name in two.tasks:
            found[s, two.tasks.index(name)] += own[ground.layout.names.index(name)]
    return found
