from __future__ import annotations

import pytest
import torch
from gradients import jacobian, signals

from plait.balancing.fairgrad import FairGrad
from plait.balancing.nash_mtl import NashMTL


@pytest.mark.parametrize("fairness", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize(("tasks", "size"), [(1, 3), (2, 4), (8, 20), (40, 100)])
def test_solves_its_equation_at_any_scale(fairness: float, tasks: int, size: int):
    for spread in (0.0, 4.0):
        s = signals(jacobian(tasks, size, 1, spread))
        weights = FairGrad(fairness=fairness)(s)
        ratio = (s.gram @ weights) / weights ** (-1 / fairness)
        torch.testing.assert_close(ratio, torch.ones(tasks).double(), rtol=1e-6, atol=1e-6)


def test_at_one_it_is_nash_mtl():
    s = signals(jacobian(5, 9, 0, spread=1.0))
    torch.testing.assert_close(FairGrad(fairness=1.0)(s), NashMTL()(s))


def test_one_task_has_a_closed_form():
    s = signals(jacobian(1, 4, 0))
    torch.testing.assert_close(FairGrad()(s), s.gram[0] ** (-2 / 3))


def test_the_fairer_the_more_equal_the_gains():
    rows = jacobian(4, 20, 5, spread=0.5)
    spreads = []
    for fairness in (0.5, 2.0, 8.0, 50.0):
        gains = rows @ (FairGrad(fairness=fairness)(signals(rows)) @ rows)
        spreads.append(float(gains.max() / gains.min()))
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < 1.2


def test_scaling_all_gradients_scales_the_weights_by_a_known_power():
    rows = jacobian(3, 6, 2)
    wanted = FairGrad()(signals(rows)) * 10 ** (-4 / 3)
    torch.testing.assert_close(FairGrad()(signals(10 * rows)), wanted)


def test_fairness_is_checked():
    with pytest.raises(ValueError, match="must be positive"):
        FairGrad(fairness=0)
