from __future__ import annotations

import pytest
import torch
from gradients import bound, jacobian, sampled

from plait.balancing.modo import MoDo


def test_equals_the_papers_step():
    one, two = jacobian(2, 4, 0), jacobian(2, 4, 1)
    s = sampled([one, two])
    w = torch.tensor([0.5, 0.5]).double()
    w = w - 0.1 * (one @ two.T @ w + 0.1 * w)
    first = ((w[0] - w[1] + 1) / 2).clamp(0, 1)  # the nearest point of a simplex of two
    weights = bound(MoDo(), s)(s)
    torch.testing.assert_close(weights.sum(0), torch.stack([first, 1 - first]))
    torch.testing.assert_close(weights[0], weights[1])


def test_without_a_rate_the_weights_stay():
    s = sampled([jacobian(4, 5, k) for k in range(2)])
    balancer = bound(MoDo(rate=0.0), s)
    for _ in range(3):
        balancer.advance(s)
    torch.testing.assert_close(balancer(s).sum(0), torch.full((4,), 0.25).double())


def test_on_one_sample_it_converges_to_the_regularised_shortest_mixture():
    rows = jacobian(3, 5, 2)
    s = sampled([rows, rows])
    balancer = bound(MoDo(rate=0.05, decay=0.3), s)
    for _ in range(3000):
        balancer.advance(s)
    w = balancer(s).sum(0)
    slope = (rows @ rows.T + 0.3 * torch.eye(3)) @ w
    used = w > 1e-9
    assert (slope >= slope @ w - 1e-6).all()
    torch.testing.assert_close(slope[used], (slope @ w).expand(int(used.sum())))


def test_settings_are_checked():
    with pytest.raises(ValueError, match="must not be negative"):
        MoDo(rate=-1)
