from __future__ import annotations

import torch
from gradients import bound, jacobian, sampled, signals

from plait.balancing.mgda import MGDA
from plait.balancing.sdmgrad import SDMGrad


def simplex(v: torch.Tensor) -> torch.Tensor:
    """The projection by bisection on its threshold."""
    low, high = float(v.min()) - 1, float(v.max())
    for _ in range(200):
        middle = (low + high) / 2
        if (v - middle).clamp(min=0).sum() > 1:
            low = middle
        else:
            high = middle
    return (v - high).clamp(min=0)


def literal(parts, w, regular, rate, steps):
    cross = parts[0] @ parts[1].T
    cross = cross / cross.diagonal().clamp(min=0).sqrt().mean() ** 2
    bias, speed = torch.full_like(w, regular / len(w)), torch.zeros_like(w)
    for _ in range(steps):
        speed = 0.5 * speed + cross @ (w + bias)
        w = simplex(w - rate * speed)
    return w, (w + bias) / (1 + regular)


def test_equals_the_authors_steps_over_a_run():
    w = torch.full((4,), 0.25).double()
    balancer = SDMGrad()
    for step in range(6):
        parts = [jacobian(4, 6, 10 * step + k) + 1 for k in range(3)]
        s = sampled(parts, step=step)
        weights = bound(balancer, s)(s)
        balancer.advance(s)
        w, wanted = literal(parts, w, 0.3, 0.3, 20)
        torch.testing.assert_close(weights[2], wanted, rtol=1e-8, atol=1e-8)
        assert not weights[:2].any()


def test_strongly_regularised_it_is_the_mean():
    s = sampled([jacobian(3, 5, k) for k in range(3)])
    torch.testing.assert_close(
        bound(SDMGrad(regular=1e6), s)(s)[2], torch.full((3,), 1 / 3).double(),
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip


def test_unregularised_on_one_sample_it_becomes_mgda():
    rows = jacobian(3, 5, 1)
    s = sampled([rows] * 3)
    weights = bound(SDMGrad(regular=0.0, rate=0.1, steps=4000), s)(s)[2]
    torch.testing.assert_close(weights, MGDA()(signals(rows)), rtol=1e-6, atol=1e-6)


def test_an_absent_task_keeps_its_share():
    parts = [jacobian(3, 5, k) for k in range(3)]
    s = sampled(parts)
    balancer = bound(SDMGrad(rate=0.1), s)
    balancer.advance(s)
    before = balancer.mix.clone()
    some = sampled([part[:2] for part in parts])
    balancer.advance(some)
    assert balancer.mix[2] == before[2]
    torch.testing.assert_close(balancer.mix.sum(), before.sum())
