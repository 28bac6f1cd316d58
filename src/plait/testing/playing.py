"""Balancers played on toys: what a step shows them, guards that tell, and runs that are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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


def guard(balancer: Balancer) -> type[Signals]:
    """Signals of which only what the balancer asks for can be read."""

    class Guarded(Signals):
        __slots__ = ()

    # Set from outside: in the class's body a name of the parent's slots may not be bound again.
    asked = {
        "gram": balancer.rung >= Rung.GRAM,
        "layers": balancer.by_layer,
        "samples": balancer.samples > 1,
        "jacobian": balancer.rung >= Rung.JACOBIAN,
        "validation": balancer.needs_validation,
    }
    for name, yes in asked.items():
        if not yes:
            setattr(Guarded, name, _guarded(name))
    return Guarded


def signals(
    problem: Quadratics,
    balancer: Balancer,
    point: Tensor | None = None,
    *,
    only: Sequence[str] | None = None,
    kind: type[Signals] = Signals,
    step: int = 0,
    seed: int = 0,
) -> Signals:
    """What a step at ``point`` (θ = 0 unless said) shows a balancer.

    Each half of the parameters is a layer; every independent part of the batch is the whole;
    losses on held-out rows are a tenth higher. Only ``kind`` says what may be looked at.
    """
    names = tuple(problem.tasks if only is None else [t for t in problem.tasks if t in only])
    chosen = torch.tensor([problem.tasks.index(name) for name in names])
    start = torch.zeros_like(problem.gradients[0]) if point is None else point
    rows = (start[None] + problem.gradients)[chosen]
    losses = problem.losses(start)[chosen]
    more: dict[str, Any] = {}
    if balancer.rung >= Rung.GRAM or kind is not Signals:
        more["gram"] = gram = rows @ rows.T
        more["layers"] = torch.stack([half @ half.T for half in rows.tensor_split(2, 1)])
        parts = balancer.samples
        more["samples"] = gram.expand(parts, parts, *gram.shape).clone()
    if balancer.rung >= Rung.JACOBIAN or kind is not Signals:
        more["jacobian"] = rows.clone()
    return kind(
        tasks=names,
        losses=losses,
        counts=torch.full_like(losses, 8.0),
        preferences=torch.ones_like(losses),
        gaussian=torch.zeros(len(names), dtype=torch.bool),
        validation=losses * 1.1,
        step=step,
        seed=seed,
        **more,
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
        seen = signals(problem, balancer, trail.point, only=only, step=step, seed=seed)
        update = update_of(balancer, seen, problem, trail.point)
        trail.point = trail.point - RATE * update
        after = None
        if balancer.second_look:
            again = signals(problem, balancer, trail.point, only=only)
            after = again.losses
        balancer.advance(seen, after)
        trail.updates.append(update)
        trail.losses.append(float(problem.losses(trail.point).sum()))
    return trail


def update_of(balancer: Balancer, seen: Signals, problem: Quadratics, point: Tensor) -> Tensor:
    """The shared update d [P] that the balancer's answer stands for."""
    answer: Tensor = balancer(seen)
    if balancer.rung is Rung.JACOBIAN:
        return answer
    chosen = torch.tensor([problem.tasks.index(name) for name in seen.tasks])
    rows = (point[None] + problem.gradients)[chosen]
    if answer.ndim == 1:
        return answer.to(rows.dtype) @ rows
    if balancer.by_layer:
        halves = zip(answer.to(rows.dtype), rows.tensor_split(2, 1), strict=True)
        return torch.cat([weights @ half for weights, half in halves])
    return answer.sum(0).to(rows.dtype) @ rows


def first(subject: Subject, problem: Quadratics, **more: Any) -> Tensor:
    """The update of a fresh balancer at θ = 0."""
    trail = start(subject, problem)
    seen = signals(problem, trail.balancer, **more)
    return update_of(trail.balancer, seen, problem, trail.point)


def first_in_units(subject: Subject, problem: Quadratics, factors: Tensor) -> Tensor:
    """The same with every loss, and so its gradient, times its factor [t]."""
    wide = problem.scaled(factors)
    trail = start(subject, wide)
    seen = signals(wide, trail.balancer)
    losses = problem.losses(trail.point) * factors
    seen = replace(seen, losses=losses, validation=losses * 1.1)
    return update_of(trail.balancer, seen, wide, trail.point)


def near(found: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    """Fail unless the two differ by at most ``tolerance``, relative to the larger norm."""
    assert found.shape == wanted.shape, f"{what}: shape {found.shape}, expected {wanted.shape}"
    if torch.equal(found, wanted):
        return
    size = max(float(found.abs().max()), float(wanted.abs().max()), 1e-300)
    gap = float((found - wanted).abs().max()) / size
    assert gap <= tolerance, f"{what}: off by {gap:.3g} relative, {tolerance:g} is allowed"


def equal_states(one: dict[str, Tensor], two: dict[str, Tensor], what: str) -> None:
    """Fail unless two states are equal bit for bit; NaN, for what is not known yet, is itself."""
    assert one.keys() == two.keys(), f"{what}: states hold {sorted(one.keys() ^ two.keys())}"
    for name, value in one.items():
        other = two[name]
        same = value.shape == other.shape and value.dtype == other.dtype
        same = same and bool(((value == other) | (value.isnan() & other.isnan())).all())
        assert same, f"{what}: {name} is {other}, was {value}"
