"""Every balancer: two hundred tasks, low precision, preferences that are not one."""

from __future__ import annotations

import pytest
import torch
from gradients import jacobian

from plait.balancing.base import Balancer, Rung, Signals
from plait.method import methods

NAMES = [entry.name for entry in methods("balancing")]


def made(name: str, tasks: int) -> Balancer:
    balancer = next(entry for entry in methods("balancing") if entry.name == name).load()()
    balancer.bind([f"t{i}" for i in range(tasks)])
    return balancer


def told(balancer: Balancer, rows: torch.Tensor, losses: torch.Tensor, **given: object) -> Signals:
    """All that a step may show, at the precisions the engine gives it."""
    wide = rows.double()
    halves = wide.tensor_split(2, 1)
    parts = balancer.samples
    gram = wide @ wide.T
    seen = Signals.of({f"t{i}": 1.0 for i in range(len(rows))}, **given)
    return Signals(
        tasks=seen.tasks,
        losses=losses,
        counts=seen.counts.to(losses),
        preferences=seen.preferences,
        gaussian=seen.gaussian,
        step=seen.step,
        validation=losses * 1.1,
        gram=gram,
        layers=torch.stack([half @ half.T for half in halves]),
        samples=gram.expand(parts, parts, *gram.shape).clone(),
        jacobian=rows,
    )


def lived(name: str, tasks: int, dtype: torch.dtype, steps: int = 2) -> list[torch.Tensor]:
    balancer, answers = made(name, tasks), []
    for step in range(steps):
        rows = jacobian(tasks, 2 * tasks, step, spread=1.0).to(dtype)
        losses = torch.linspace(0.5, 2.0, tasks).to(dtype) / (1 + step)
        s = told(balancer, rows, losses, step=step)
        answers.append(balancer(s))
        balancer.advance(s, losses * 0.9 if balancer.second_look else None)
    return answers


@pytest.mark.parametrize("name", NAMES)
def test_two_hundred_tasks(name: str):
    for answer in lived(name, 200, torch.float32):
        assert answer.isfinite().all()
        assert answer.any()


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_in_bfloat16(name: str):
    narrow = lived(name, 4, torch.bfloat16)
    wide = lived(name, 4, torch.float64)
    updates = made(name, 4).rung is Rung.JACOBIAN
    assert all(answer.isfinite().all() for answer in narrow)
    assert not updates or all(answer.dtype == torch.bfloat16 for answer in narrow)
    if name not in ("graddrop", "random"):  # where a draw may fall on the other side
        size = wide[0].abs().max()
        assert (narrow[0].double() - wide[0]).abs().max() < 0.05 * size


HONOURED = [
    "clip",
    "coba",
    "covariance_alignment",
    "db_mtl",
    "dwa",
    "ema",
    "equal",
    "excess_mtl",
    "famo",
    "gls",
    "gradnorm",
    "imtl_l",
    "mftcoder",
    "random",
    "stch",
    "uncertainty",
]


@pytest.mark.parametrize("name", HONOURED)
def test_a_preference_multiplies_the_tasks_part_of_the_update(name: str):
    """The engine gives gradients and takes weights times the preferences."""
    parts = []
    for preferences in (torch.ones(2), torch.tensor([3.0, 1.0])):
        balancer = made(name, 2)
        for step in range(4):
            rows = torch.diag(torch.tensor([1.0 + step, 2.0])).double() * preferences[:, None]
            losses = torch.tensor([0.5, 2.0 / (1 + step)]).double()
            s = told(balancer, rows, losses, step=step, preferences=preferences)
            answer = balancer(s)
            balancer.advance(s, losses * 0.9 if balancer.second_look else None)
        update = answer if balancer.rung is Rung.JACOBIAN else answer.double() @ rows
        parts.append(update[0] / update[1])
    torch.testing.assert_close(parts[1], 3 * parts[0], rtol=1e-5, atol=0)
