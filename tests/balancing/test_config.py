from __future__ import annotations

import pytest
import torch
from gradients import jacobian, signals
from torchjd.aggregation import ConFIG as Rival

from plait.balancing.config import ConFIG
from plait.balancing.imtl_g import IMTLG


@pytest.mark.parametrize(("tasks", "size"), [(1, 3), (2, 4), (5, 9), (12, 30)])
def test_equals_torchjd(tasks: int, size: int):
    for seed in range(10):
        rows = jacobian(tasks, size, seed, spread=1.0)
        update = ConFIG()(signals(rows)) @ rows
        torch.testing.assert_close(update, Rival()(rows), rtol=1e-6, atol=1e-6)


def test_all_angles_are_the_same_and_below_ninety_degrees():
    for seed in range(20):
        rows = jacobian(6, 10, seed, spread=2.0)
        update = ConFIG()(signals(rows)) @ rows
        cosines = rows @ update / rows.norm(dim=1) / update.norm()
        assert cosines.min() > 0
        torch.testing.assert_close(cosines, cosines.mean().expand(6))


def test_two_tasks_have_a_closed_form():
    one, two = jacobian(2, 5, 4, spread=1.0)
    first = one - (one @ two) / (two @ two) * two
    second = two - (one @ two) / (one @ one) * one
    unit = torch.nn.functional.normalize(first / first.norm() + second / second.norm(), dim=0)
    wanted = (one @ unit + two @ unit) * unit
    rows = torch.stack([one, two])
    torch.testing.assert_close(ConFIG()(signals(rows)) @ rows, wanted)


def test_the_direction_is_that_of_imtl_g():
    rows = jacobian(5, 8, 2)
    one, two = (balancer(signals(rows)) @ rows for balancer in (ConFIG(), IMTLG()))
    torch.testing.assert_close(one / one.norm(), two / two.norm())


def test_opposite_gradients_give_no_update():
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(ConFIG()(signals(rows)) @ rows, torch.zeros(2).double())
