from __future__ import annotations

import pytest
import torch
from gradients import jacobian, signals

from plait.balancing.imtl_g import IMTLG
from plait.balancing.nash_mtl import NashMTL


@pytest.mark.parametrize(("tasks", "size"), [(1, 3), (2, 4), (8, 20), (40, 100), (200, 300)])
def test_solves_the_bargaining_equation_at_any_scale(tasks: int, size: int):
    for spread in (0.0, 4.0):
        gram = signals(jacobian(tasks, size, 1, spread)).gram
        weights = NashMTL()(signals(jacobian(tasks, size, 1, spread)))
        assert weights.min() > 0
        torch.testing.assert_close(weights * (gram @ weights), torch.ones(tasks).double())


def test_the_update_has_length_root_t():
    rows = jacobian(6, 9, 0, spread=3.0)
    update = NashMTL()(signals(rows)) @ rows
    torch.testing.assert_close(update.square().sum(), torch.tensor(6.0).double())


def test_two_tasks_go_along_the_sum_of_unit_gradients_as_imtl_g_does():
    rows = jacobian(2, 5, 3, spread=2.0)
    update = NashMTL()(signals(rows)) @ rows
    units = (rows / rows.norm(dim=1, keepdim=True)).sum(0)
    torch.testing.assert_close(update / update.norm(), units / units.norm())
    other = IMTLG()(signals(rows)) @ rows
    torch.testing.assert_close(update / update.norm(), other / other.norm())


def test_orthogonal_gradients_weigh_by_their_inverse_lengths():
    lengths = torch.tensor([1.0, 5.0, 0.01], dtype=torch.float64)
    torch.testing.assert_close(NashMTL()(signals(torch.diag(lengths))), 1 / lengths)


def test_opposite_gradients_weigh_by_their_inverse_lengths():
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    weights = NashMTL()(signals(rows * torch.tensor([[1.0], [10.0]])))
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.1]).double() / 2**0.5)
