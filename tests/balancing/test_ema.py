from __future__ import annotations

import pytest
import torch
from gradients import bound, jacobian, signals

from plait.balancing.base import Signals
from plait.balancing.ema import Ema
from plait.balancing.pcgrad import PCGrad
from plait.balancing.per_layer import PerLayer


def losses(**values: float) -> Signals:
    return Signals.of(values)


def test_is_the_mean_in_which_a_step_counts_less_by_the_decay():
    balancer, inner = Ema(decay=0.8), []
    for step in range(7):
        s = signals(jacobian(3, 2, step), step=step)
        inner.append(PCGrad()(s))
        shares = 0.8 ** torch.arange(step, -1, -1.0, dtype=torch.float64)
        wanted = (shares[:, None] * torch.stack(inner)).sum(0) / shares.sum()
        torch.testing.assert_close(bound(balancer, s)(s), wanted)
        balancer.advance(s)


def test_without_decay_it_is_the_inner_balancer():
    balancer = Ema(balancer="gls", decay=0.0)
    balancer.bind("ab")
    for step in range(1, 4):
        s = losses(a=1.0, b=float(step))
        torch.testing.assert_close(balancer(s), balancer.balancer(s))
        balancer.advance(s)


def test_an_absent_task_keeps_its_average_and_a_late_one_starts_from_its_own():
    balancer = Ema(balancer="gls", decay=0.9)
    balancer.bind("abc")
    balancer.advance(losses(a=1.0, b=4.0))
    kept = balancer.average.clone()
    balancer.advance(losses(a=1.0, c=9.0))
    assert balancer.average[1] == kept[1]
    assert balancer.steps.tolist() == [2.0, 1.0, 1.0]
    late = losses(a=1.0, b=4.0, c=9.0)
    fresh = Ema(balancer="gls", decay=0.9)
    fresh.bind("abc")
    assert balancer(late)[0] != fresh(late)[0]
    assert fresh(late).tolist() == pytest.approx(fresh.balancer(late).tolist())


def test_weights_for_each_layer_are_averaged_too():
    balancer = Ema(balancer=PerLayer(), decay=0.5)
    found = []
    for step in range(3):
        rows = jacobian(3, 4, step)
        layers = torch.stack([rows[:, :2] @ rows[:, :2].T, rows[:, 2:] @ rows[:, 2:].T])
        s = signals(rows, layers=layers)
        found.append(balancer.balancer(s))
        average = bound(balancer, s)(s)
        balancer.advance(s)
    assert average.shape == (2, 3)
    torch.testing.assert_close(average, (found[0] + 2 * found[1] + 4 * found[2]) / 7)


def test_what_gives_no_weights_is_refused():
    with pytest.raises(ValueError, match="graddrop gives an update"):
        Ema(balancer="graddrop")
    with pytest.raises(ValueError, match="decay"):
        Ema(decay=1.0)
