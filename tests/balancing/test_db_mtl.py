from __future__ import annotations

import pytest
import torch
from gradients import jacobian

from plait.balancing.base import Rung, Signals
from plait.balancing.db_mtl import DBMTL


def signals(rows: torch.Tensor, losses: list[float], **given: object) -> Signals:
    named = {f"t{i}": value for i, value in enumerate(losses)}
    return Signals.of(named, gram=rows @ rows.T, jacobian=rows, **given)


def bound(tasks: int, **given: float) -> DBMTL:
    balancer = DBMTL(**given)
    balancer.bind([f"t{i}" for i in range(tasks)])
    return balancer


def test_equals_the_authors_loop():
    """Log losses through autograd, a running gradient, and the largest length for all."""
    beta, ours, running = 0.7, bound(3, decay=0.7), torch.zeros(3, 6).double()
    for step in range(6):
        point = torch.zeros(6, dtype=torch.float64, requires_grad=True)
        rows, floors = jacobian(3, 6, step, spread=2.0), torch.tensor([0.5, 2.0, 9.0]).double()
        losses = floors + rows @ point
        for i, loss in enumerate(torch.log(losses + 1e-8)):
            (gradient,) = torch.autograd.grad(loss, point, retain_graph=True)
            running[i] = beta * running[i] + (1 - beta) * gradient
        lengths = torch.stack([row.norm() for row in running])
        wanted = sum(lengths.max() / (n + 1e-8) * v for n, v in zip(lengths, running, strict=True))
        s = signals(rows, losses.tolist(), step=step)
        torch.testing.assert_close(ours(s), wanted, rtol=1e-10, atol=1e-12)
        ours.advance(s)


def test_without_memory_the_gramian_is_enough():
    rows, losses = jacobian(4, 9, 0, spread=3.0), [0.1, 2.0, 30.0, 1.0]
    by_gram, by_rows = bound(4, decay=0.0), bound(4, decay=1e-300)
    assert by_gram.rung is Rung.GRAM
    assert by_rows.rung is Rung.JACOBIAN
    s = signals(rows, losses)
    torch.testing.assert_close(by_gram(s) @ rows, by_rows(s), rtol=1e-9, atol=0)
    parts = by_gram(s)[:, None] * rows
    torch.testing.assert_close(parts.norm(dim=1), parts.norm(dim=1).max().expand(4))


def test_constant_gradients_fill_the_average():
    balancer, s = bound(2, decay=0.8), signals(torch.eye(2).double(), [1.0, 1.0])
    for _ in range(5):
        balancer.advance(s)
    torch.testing.assert_close(balancer.average.diagonal(), torch.full((2,), 1 - 0.8**5).double())


def test_preferences_weigh_the_parts():
    rows, preferences = jacobian(2, 5, 0), torch.tensor([3.0, 1.0])
    with_them = signals(rows * preferences[:, None], [1.0, 2.0], preferences=preferences)
    for decay in (0.0, 0.5):
        answer = bound(2, decay=decay)(with_them)
        update = answer @ with_them.jacobian if decay == 0 else answer
        units = rows / rows.norm(dim=1, keepdim=True)
        size = (rows.norm(dim=1) / torch.tensor([1.0, 2.0])).max() * (1 - decay)
        torch.testing.assert_close(update, size * (3 * units[0] + units[1]), rtol=1e-6, atol=0)


def test_a_task_without_gradient_adds_nothing():
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double()
    for decay in (0.0, 0.9):
        s = signals(rows, [1.0, 1.0])
        answer = bound(2, decay=decay)(s)
        update = answer @ rows if decay == 0 else answer
        assert update.tolist() == pytest.approx([1.0 - decay, 0.0])


def test_losses_and_settings_are_checked():
    for decay in (0.0, 0.9):
        with pytest.raises(ValueError, match=r"db_mtl takes logarithms .* task 't1' is negative"):
            bound(2, decay=decay)(signals(torch.eye(2), [1.0, -1.0]))
    with pytest.raises(ValueError, match="decay"):
        DBMTL(decay=1.0)
