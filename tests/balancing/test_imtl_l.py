from __future__ import annotations

import math

import pytest
import torch
from torchjd import scalarization

from plait.balancing.base import Signals
from plait.balancing.imtl_l import IMTLL


def bound(names: str, **given: float) -> IMTLL:
    balancer = IMTLL(**given)
    balancer.bind(names)
    return balancer


def test_equals_torchjd_step_for_step():
    ours, theirs = bound("abc", rate=0.02), scalarization.IMTLL(3).double()
    adam = torch.optim.Adam(theirs.parameters(), lr=0.02)
    for step in range(60):
        values = torch.tensor([0.1 + step / 30, 2.0, 5.0 / (step + 1)], dtype=torch.float64)
        s = Signals.of(dict(zip("abc", values.tolist(), strict=True)))
        values.requires_grad_()
        adam.zero_grad()
        theirs(values).backward()
        torch.testing.assert_close(ours(s), values.grad, rtol=1e-12, atol=0)
        adam.step()
        ours.advance(s)


def test_settles_where_every_scaled_loss_is_one():
    balancer = bound("ab", rate=0.05)
    s = Signals.of({"a": 3.0, "b": 0.2})
    for _ in range(2_000):
        balancer.advance(s)
    wanted = torch.tensor([-math.log(3.0), -math.log(0.2)]).double()
    torch.testing.assert_close(balancer.log_scale, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(balancer(s) * s.losses, torch.ones(2).double(), rtol=1e-5, atol=0)


def test_a_perfect_fit_does_not_run_away():
    balancer = bound("a", rate=1.0, bound=5.0)
    for _ in range(100):
        balancer.advance(Signals.of({"a": 0.0}))
    assert balancer.log_scale.item() == 5.0


def test_a_negative_loss_is_refused_by_name():
    with pytest.raises(ValueError, match=r"imtl_l balances the losses, and that of task 'b'"):
        bound("ab").advance(Signals.of({"a": 1.0, "b": -0.1}))


def test_settings_are_checked():
    with pytest.raises(ValueError, match="rate and bound"):
        IMTLL(bound=0.0)
