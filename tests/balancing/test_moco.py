from __future__ import annotations

import numpy as np
import pytest
import quadprog
import torch
from gradients import jacobian

from plait.balancing.base import Signals
from plait.balancing.moco import MoCo


def signals(rows: torch.Tensor, **given: object) -> Signals:
    return Signals.of({f"t{i}": 1.0 for i in range(len(rows))}, jacobian=rows, **given)


def bound(tasks: int, **given: float) -> MoCo:
    balancer = MoCo(**given)
    balancer.bind([f"t{i}" for i in range(tasks)])
    return balancer


def on_simplex(v: torch.Tensor) -> torch.Tensor:
    """The projection by bisection on the level that is taken off."""
    low, high = v.min() - 1, v.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (v - middle).clamp(min=0).sum() > 1 else (low, middle)
    return (v - low).clamp(min=0)


def test_equals_the_authors_steps():
    ours = bound(3, tracking=0.3, rate=0.9, ridge=0.05)
    tracked, w = torch.zeros(3, 6).double(), torch.full((3,), 1 / 3, dtype=torch.float64)
    for step in range(12):
        rows = jacobian(3, 6, step)
        tracked = tracked - 0.3 * (tracked - rows)
        w = on_simplex(w - 0.9 * (tracked @ (tracked.T @ w) + 0.05 * w))
        s = signals(rows, step=step)
        torch.testing.assert_close(ours(s), tracked.T @ w, rtol=1e-8, atol=1e-9)
        ours.advance(s)
    assert (w - 1 / 3).abs().max() > 0.1  # the mixture has moved


def test_constant_gradients_lead_to_the_shortest_combination():
    rows = jacobian(3, 6, 4)
    balancer = bound(3, tracking=0.5, rate=0.05, ridge=0.0)
    s = signals(rows)
    for _ in range(3_000):
        balancer.advance(s)
    torch.testing.assert_close(balancer.tracked, rows)
    simplex = np.vstack([np.ones(3), np.eye(3)]).T
    gram = (rows @ rows.T).numpy()
    w = quadprog.solve_qp(gram, np.zeros(3), simplex, np.array([1.0, 0, 0, 0]), 1)[0]
    torch.testing.assert_close(balancer(s), torch.from_numpy(w) @ rows, rtol=1e-6, atol=1e-9)


def test_full_tracking_is_one_projected_step_of_mgda():
    rows = jacobian(3, 6, 1)
    balancer = bound(3, tracking=1.0, rate=0.1, ridge=0.0)
    w = on_simplex(1 / 3 - 0.1 * rows @ rows.T @ torch.full((3,), 1 / 3, dtype=torch.float64))
    torch.testing.assert_close(balancer(signals(rows)), w @ rows, rtol=1e-9, atol=1e-12)


def test_absent_tasks_keep_their_gradient_and_their_part():
    balancer = bound(3)
    for step in range(3):
        balancer.advance(signals(jacobian(3, 4, step)))
    tracked, mix = balancer.tracked.clone(), balancer.mix.clone()
    balancer.advance(signals(jacobian(2, 4, 9)))
    assert torch.equal(balancer.tracked[2], tracked[2])
    assert balancer.mix[2] == mix[2]
    assert balancer.mix[:2].sum().item() == pytest.approx(mix[:2].sum().item())
    assert not torch.equal(balancer.tracked[:2], tracked[:2])


def test_settings_are_checked():
    with pytest.raises(ValueError, match="tracking"):
        MoCo(tracking=0.0)
    with pytest.raises(ValueError, match="must not be negative"):
        MoCo(ridge=-1.0)
