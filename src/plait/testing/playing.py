"""Balancers played on toys: what a step shows them, guards that tell, and runs that are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.testing.laws import Subject
from plait.testing.toys import Quadratics

RATE = 0.02


class UndeclaredAccessError(AssertionError):
    """A method looked at something its rung does not pay for."""


def _guarded(what: str) -> property:
    """A field that cannot be read, and forgets what it is given."""

    def refuse(_: Any) -> Tensor:
        raise UndeclaredAccessError(f"the {what} was touched on a lower rung")

    return property(refuse, lambda _, __: None)


class WithoutJacobian(Signals):
    """What the Gram rung may see: touching the Jacobian raises."""

    __slots__ = ()


class WithoutGradients(WithoutJacobian):
    """What the lowest rung may see: touching the Gram matrix or the Jacobian raises."""

    __slots__ = ()


# Set from outside: in the class's body a name of the parent's slots may not be bound again.
setattr(WithoutJacobian, "jacobian", _guarded("Jacobian"))  # noqa: B010
setattr(WithoutGradients, "gram", _guarded("Gram matrix"))  # noqa: B010

GUARDS: dict[Rung, type[Signals]] = {
    Rung.LOSSES: WithoutGradients,
    Rung.GRAM: WithoutJacobian,
    Rung.JACOBIAN: Signals,
}


def signals(
    problem: Quadratics,
    rung: Rung,
    point: Tensor | None = None,
    *,
    only: Sequence[str] | None = None,
    kind: type[Signals] = Signals,
    step: int = 0,
    seed: int = 0,
) -> Signals:
    """What a step at ``point`` (θ = 0 unless said) shows a balancer of the rung."""
    names = tuple(problem.tasks if only is None else [t for t in problem.tasks if t in only])
    chosen = torch.tensor([problem.tasks.index(name) for name in names])
    start = torch.zeros_like(problem.gradients[0]) if point is None else point
    rows = (start[None] + problem.gradients)[chosen]
    losses = problem.losses(start)[chosen]
    return kind(
        tasks=names,
        losses=losses,
        counts=torch.full_like(losses, 8.0),
        preferences=torch.ones_like(losses),
        gaussian=torch.zeros(len(names), dtype=torch.bool),
        gram=rows @ rows.T if rung >= Rung.GRAM else None,
        jacobian=rows.clone() if rung >= Rung.JACOBIAN else None,
        step=step,
        seed=seed,
    )


@dataclass
class Trail:
    """What a run of a balancer on a toy left behind."""

    balancer: Balancer
    point: Tensor
    updates: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def start(subject: Subject, problem: Quadratics) -> Trail:
    """A fresh balancer bound to the problem's tasks, at θ = 0."""
    balancer: Balancer = subject.make()
    balancer.bind(problem.tasks)
    return Trail(balancer, torch.zeros_like(problem.gradients[0]))


def play(
    trail: Trail,
    problem: Quadratics,
    steps: range,
    *,
    present: Callable[[int], Sequence[str]] | None = None,
    seed: int = 0,
) -> Trail:
    """Descend: at every step ask the balancer, move θ against the update, let it advance."""
    balancer = trail.balancer
    for step in steps:
        only = None if present is None else present(step)
        seen = signals(problem, balancer.rung, trail.point, only=only, step=step, seed=seed)
        update = update_of(balancer, seen, problem, trail.point)
        trail.point = trail.point - RATE * update
        after = None
        if balancer.second_look:
            again = signals(problem, Rung.LOSSES, trail.point, only=only)
            after = again.losses
        balancer.advance(seen, after)
        trail.updates.append(update)
        trail.losses.append(float(problem.losses(trail.point).sum()))
    return trail


def update_of(balancer: Balancer, seen: Signals, problem: Quadratics, point: Tensor) -> Tensor:
    """The shared update d [P] that the balancer's answer stands for."""
    answer = balancer(seen)
    if balancer.rung is Rung.JACOBIAN:
        found: Tensor = answer
        return found
    chosen = torch.tensor([problem.tasks.index(name) for name in seen.tasks])
    rows = (point[None] + problem.gradients)[chosen]
    weighted: Tensor = answer.to(rows.dtype) @ rows
    return weighted


def first(subject: Subject, problem: Quadratics, **more: Any) -> Tensor:
    """The update of a fresh balancer at θ = 0."""
    trail = start(subject, problem)
    seen = signals(problem, trail.balancer.rung, **more)
    return update_of(trail.balancer, seen, problem, trail.point)


def near(found: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    """Fail unless the two differ by at most ``tolerance``, relative to the larger norm."""
    assert found.shape == wanted.shape, f"{what}: shape {found.shape}, expected {wanted.shape}"
    if torch.equal(found, wanted):
        return
    size = max(float(found.abs().max()), float(wanted.abs().max()), 1e-300)
    gap = float((found - wanted).abs().max()) / size
    assert gap <= tolerance, f"{what}: off by {gap:.3g} relative, {tolerance:g} is allowed"


def equal_states(one: dict[str, Tensor], two: dict[str, Tensor], what: str) -> None:
    """Fail unless two states are equal bit for bit."""
    assert one.keys() == two.keys(), f"{what}: states hold {sorted(one.keys() ^ two.keys())}"
    for name, value in one.items():
        assert torch.equal(value, two[name]), f"{what}: {name} is {two[name]}, was {value}"
