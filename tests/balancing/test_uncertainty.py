from __future__ import annotations

import math

import pytest
import torch
from torchjd.scalarization import UW

from plait.balancing.base import Signals
from plait.balancing.uncertainty import Uncertainty


def signals(losses: dict[str, float], gaussian: list[bool] | bool = True) -> Signals:
    marks = [gaussian] * len(losses) if isinstance(gaussian, bool) else gaussian
    return Signals.of(losses, gaussian=torch.tensor(marks))


def test_settles_at_the_closed_form_of_each_kind():
    """s* = log L for squared errors, log 2L for others; both give the weight 1/(2L)."""
    balancer = Uncertainty(rate=0.05)
    balancer.bind("ab")
    s = signals({"a": 3.0, "b": 0.2}, [True, False])
    for _ in range(2_000):
        balancer.advance(s)
    wanted = torch.tensor([math.log(3.0), math.log(0.4)], dtype=torch.float64)
    torch.testing.assert_close(balancer.log_variance, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(balancer(s), 1 / (2 * s.losses), rtol=1e-5, atol=0)


def test_equals_torchjd_on_squared_errors_step_for_step():
    ours, theirs = Uncertainty(rate=0.02), UW(3).double()
    ours.bind("abc")
    adam = torch.optim.Adam(theirs.parameters(), lr=0.02)
    for step in range(60):
        values = torch.tensor([0.1 + step / 30, 2.0, 5.0 / (step + 1)], dtype=torch.float64)
        s = signals(dict(zip("abc", values.tolist(), strict=True)))
        values.requires_grad_()
        adam.zero_grad()
        theirs(values).backward()
        torch.testing.assert_close(ours(s), values.grad, rtol=1e-12, atol=0)
        adam.step()
        ours.advance(s)


def test_noisy_tasks_may_weigh_more_than_one_and_less():
    balancer = Uncertainty(rate=0.1)
    balancer.bind("ab")
    s = signals({"a": 0.01, "b": 100.0}, False)
    for _ in range(300):
        balancer.advance(s)
    weights = balancer(s)
    assert weights[0] > 10
    assert weights[1] < 0.02


def test_a_perfect_fit_does_not_run_away():
    balancer = Uncertainty(rate=1.0, bound=5.0)
    balancer.bind("a")
    for _ in range(100):
        balancer.advance(signals({"a": 0.0}))
    assert balancer.log_variance.item() == -5.0
    balancer.advance(signals({"a": 1.0}))
    assert balancer.log_variance.item() > -5.0


def test_finds_the_noise_of_the_authors_toy():
    """y₁ = 2x + 8 + 10ε and y₂ = 3x + 3 + ε; e^(s/2) comes near (10, 1)."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(400, generator=draw, dtype=torch.float64)
    noise = torch.randn(2, 400, generator=draw, dtype=torch.float64)
    lines, scales = torch.tensor([[2.0, 8.0], [3.0, 3.0]]), torch.tensor([10.0, 1.0])
    y = lines[:, :1] * x + lines[:, 1:] + scales[:, None] * noise
    weight = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.1)
    balancer = Uncertainty(rate=0.05)
    balancer.bind(["steep", "flat"])
    for _ in range(1_400):
        losses = (weight[:, :1] * x + weight[:, 1:] - y).square().mean(1)
        s = signals(dict(zip(balancer.tasks, losses.tolist(), strict=True)))
        optimizer.zero_grad()
        (balancer(s) @ losses).backward()
        optimizer.step()
        balancer.advance(s)
    deviation = (balancer.log_variance / 2).exp()
    torch.testing.assert_close(deviation, scales.double(), rtol=0.08, atol=0)


def test_bound_must_be_positive():
    with pytest.raises(ValueError, match="bound"):
        Uncertainty(bound=0.0)
