from __future__ import annotations

import numpy as np
import pytest
import quadprog
import torch
from gradients import jacobian, signals
from torchjd._linalg import QuadprogProjector
from torchjd.aggregation import UPGradWeighting

from plait.balancing.pcgrad import PCGrad
from plait.balancing.upgrad import UPGrad


@pytest.mark.parametrize(("tasks", "size"), [(2, 3), (6, 9), (40, 100)])
def test_equals_quadratic_programs(tasks: int, size: int):
    for seed in range(3):
        s = signals(jacobian(tasks, size, seed, spread=1.0))
        gram = s.gram.numpy()
        parts = [
            quadprog.solve_qp(gram, np.zeros(tasks), np.eye(tasks), row)[0]
            for row in np.eye(tasks) / tasks
        ]
        wanted = torch.from_numpy(np.sum(parts, 0))
        torch.testing.assert_close(UPGrad()(s), wanted, rtol=1e-9, atol=1e-9)


def test_equals_torchjd_without_its_ridge():
    for seed in range(10):
        s = signals(jacobian(5, 8, seed))
        wanted = UPGradWeighting(projector=QuadprogProjector(norm_eps=0.0, reg_eps=1e-12))(s.gram)
        torch.testing.assert_close(UPGrad()(s), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("tasks", "size"), [(3, 4), (12, 30), (8, 3), (200, 250)])
def test_no_task_is_opposed(tasks: int, size: int):
    for seed in range(5 if tasks < 100 else 1):
        rows = jacobian(tasks, size, seed, spread=2.0)
        gains = rows @ (UPGrad()(signals(rows)) @ rows)
        assert (gains >= -1e-8 * rows.square().sum(1)).all()


def test_without_conflict_it_is_the_mean_or_the_sum():
    rows = jacobian(4, 6, 0).abs()
    assert UPGrad()(signals(rows)).tolist() == [0.25] * 4
    assert UPGrad(reduce="sum")(signals(rows)).tolist() == [1.0] * 4


def test_the_sum_of_two_tasks_is_pcgrad():
    for seed in range(20):
        s = signals(jacobian(2, 3, seed))
        torch.testing.assert_close(UPGrad(reduce="sum")(s), PCGrad()(s))


def test_it_is_linear_under_positive_scaling_of_the_gradients():
    rows = jacobian(4, 6, 1)
    one, two = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 1.0, 0.5, 1.0]]).double()[..., None]
    added = sum(UPGrad()(signals(c * rows)) @ (c * rows) for c in (one, two))
    torch.testing.assert_close(UPGrad()(signals((one + two) * rows)) @ ((one + two) * rows), added)


def test_reduce_is_checked():
    with pytest.raises(ValueError, match="'mean' or 'sum'"):
        UPGrad(reduce="total")
