from __future__ import annotations

import pytest
import torch
from gradients import jacobian
from torchjd import aggregation

from plait.balancing.base import Signals
from plait.balancing.excess_mtl import ExcessMTL


def signals(rows: torch.Tensor, **given: object) -> Signals:
    return Signals.of({f"t{i}": 1.0 for i in range(len(rows))}, jacobian=rows, **given)


def bound(tasks: int, **given: float) -> ExcessMTL:
    balancer = ExcessMTL(**given)
    balancer.bind([f"t{i}" for i in range(tasks)])
    return balancer


@pytest.mark.parametrize("warm_up", [1, 3])
def test_equals_torchjd_after_its_warm_up(warm_up: int):
    """torchjd's weights sum to one, ours to the number of tasks."""
    ours = bound(4, rate=0.3, warm_up=warm_up)
    theirs = aggregation.ExcessMTL(0.3, n_warmup_steps=warm_up)
    for step in range(10):
        s = signals(jacobian(4, 30, step), step=step)
        torch.testing.assert_close(ours(s), 4 * theirs(s.jacobian), rtol=1e-6, atol=1e-6)
        ours.advance(s)


def test_equals_the_authors_steps():
    """Their code: the first excess is the base and moves nothing; then w e^(η e/e⁰), Σ = T."""
    ours, weights, squares = bound(3, rate=0.5), torch.ones(3).double(), torch.zeros(3, 8).double()
    base: torch.Tensor | None = None
    for step in range(8):
        rows = jacobian(3, 8, step, spread=1.0)
        squares += rows**2
        excess = (rows * rows / (squares + 1e-7).sqrt()).sum(1)
        if base is None:
            base = excess
        else:
            weights = weights * torch.exp(0.5 * excess / base)
            weights = weights / weights.sum() * 3
        s = signals(rows, step=step)
        torch.testing.assert_close(ours(s), weights @ rows, rtol=1e-9, atol=1e-12)
        ours.advance(s)


def test_a_constant_gradient_counts_less_by_the_root_of_the_steps():
    balancer, s = bound(2, rate=1.0), signals(torch.tensor([[4.0, 2.0], [1.0, 1.0]]).double())
    for _ in range(5):
        balancer.advance(s)
    rise = sum(1 / k**0.5 for k in range(2, 6))
    assert balancer.base.tolist() == pytest.approx([6.0, 2.0])
    torch.testing.assert_close(balancer.logits, torch.zeros(2).double(), atol=1e-6, rtol=0)
    assert rise > 1  # both rose by it, so neither gained


def test_the_task_that_stays_far_gains():
    balancer = bound(2, rate=0.5)
    balancer.advance(signals(torch.eye(2).double()))
    for _ in range(5):
        balancer.advance(s := signals(torch.diag(torch.tensor([1.0, 0.1])).double()))
    update = balancer(s)
    assert update[0] > 1.2
    assert update[1] < 0.08


def test_large_rates_saturate_and_do_not_overflow():
    balancer = bound(2, rate=1e6)
    for step in range(4):
        balancer.advance(s := signals(jacobian(2, 5, step), step=step))
    assert balancer(s).isfinite().all()


def test_settings_are_checked():
    with pytest.raises(ValueError, match="rate must be positive"):
        ExcessMTL(rate=0.0)
    with pytest.raises(ValueError, match="warm_up at least 1"):
        ExcessMTL(warm_up=0)
