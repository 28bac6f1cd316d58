"""Task gradients taken elsewhere than on all shared parameters of the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor

from plait.networks import Outputs
from plait.training.engine import (
    Gathered,
    NotFiniteError,
    Sample,
    added,
    at_features,
    at_last,
    roots_of,
)
from plait.training.engine import pooled as pool
from plait.training.measuring import Losses, total
from plait.training.procedures.base import Problem, TaskGradients

Look = tuple[Losses, Tensor | None]


def sampled(problem: Problem, count: int) -> tuple[TaskGradients, list[Gathered]]:
    """The gradients of the whole batch, and those on ``count`` independent parts of it.

    Raises ``ValueError`` where the batch has too few rows.
    """
    problem.check_shared()
    if problem.rows < count:
        raise ValueError(
            f"the balancer compares {count} independent parts of a batch, and this one has "
            f"{problem.rows:.0f} rows; use larger batches"
        )
    parts = problem.cut(count)
    tasks, device = problem.tasks, problem.ground.device
    losses = torch.zeros(len(tasks), device=device)
    heads: list[Tensor | None] = [None] * len(problem.ground.specific)
    penalties: list[Tensor | None] | None = None
    samples = []
    for part in parts:
        found = part.task_gradients()
        rows = torch.tensor([tasks.index(name) for name in part.tasks], device=device)
        whole = problem.units.total[rows].to(found.losses)
        mine = part.units.total.to(found.losses) / whole
        losses = losses.to(found.losses).index_add(0, rows, mine * found.losses)
        heads = added(heads, part.weighed(found.heads, mine))
        if found.penalties is not None:
            share = part.rows / problem.rows
            scaled = [None if g is None else g * share for g in found.penalties]
            penalties = scaled if penalties is None else added(penalties, scaled)
        assert isinstance(found.shared, Gathered)
        share_of = mine.new_zeros(len(tasks)).index_copy(0, rows, mine)
        samples.append(Sample(found.shared.spread(rows, len(tasks)), share_of))
    empty = Gathered(problem.ground.shared, [], len(tasks))
    gathered = [sample.gradients for sample in samples]
    gathered += [empty] * (count - len(parts))
    return TaskGradients(losses, pool(samples), heads, penalties), gathered


def proxied(problem: Problem, at: str) -> tuple[list[Look], Tensor, Gathered]:
    """The looks at the pieces with their graphs, the losses [t], and the gradients at a proxy.

    ``at`` is ``"last"`` (the last shared layer) or ``"features"``. With several micro-batches the
    graphs are not kept: the list of looks is empty then.
    """
    problem.check_shared()
    if at == "features":
        _alone(problem, 'at="features"')
    looks: list[Look] = []
    value: Tensor | None = None
    found: Gathered | None = None
    for number in range(len(problem.pieces)):
        piece, outputs = problem.run(number)
        losses = total(piece, outputs, problem.units)
        roots = roots_of(losses)
        if at == "features":
            here = at_features(roots, _features(outputs))
        else:
            last = problem.ground.network.last_shared() or problem.ground.shared
            here = at_last(roots, last, problem.ground.engine)
        found = here if found is None else _joined(found, here, at)
        value = losses.value.detach() if value is None else value + losses.value.detach()
        if len(problem.pieces) == 1:
            looks.append((losses, problem.penalty(outputs, piece)))
    assert value is not None
    assert found is not None
    if problem.ground.processes is not None:
        found, value = problem.ground.processes.gathered(found), problem.ground.total(value)
    if not found.finite().all():
        raise NotFiniteError(problem.culprits() or problem.tasks)
    return looks, value, found


def _alone(problem: Problem, what: str) -> None:
    if problem.ground.processes is not None:
        raise ValueError(f"{what} is for trainings in one process, and this one has several")


def _joined(one: Gathered, two: Gathered, at: str) -> Gathered:
    """Gradients of two pieces: on parameters they add up, at features they lie side by side."""
    if at == "last":
        return one.plus(two)
    shifted = [part.moved(len(one.parameters)) for part in two.held]
    parameters = [*one.parameters, *two.parameters]
    return Gathered(parameters, [*one.held, *shifted], one.count)


def _features(outputs: Outputs) -> list[Tensor]:
    """The tensors that heads of several tasks read."""
    known = {id(f.values): f.values for f in outputs.features.values() if f.rows is not None}
    if not known:
        raise ValueError(
            'at="features": in this network every task reads features of its own, so their '
            'gradients cannot be compared there; use at="shared"'
        )
    return list(known.values())
