from __future__ import annotations

import numpy as np
import pytest
import quadprog
import torch
from gradients import jacobian, signals
from torchjd._linalg import QuadprogProjector
from torchjd.aggregation import DualProjWeighting

from plait.balancing.dualproj import DualProj


@pytest.mark.parametrize(("tasks", "size"), [(2, 3), (6, 9), (40, 100)])
def test_equals_a_quadratic_program_and_torchjd(tasks: int, size: int):
    for seed in range(3):
        s = signals(jacobian(tasks, size, seed, spread=1.0))
        lower = np.full(tasks, 1 / tasks)
        found = quadprog.solve_qp(s.gram.numpy(), np.zeros(tasks), np.eye(tasks), lower)[0]
        torch.testing.assert_close(DualProj()(s), torch.from_numpy(found), rtol=1e-9, atol=1e-9)
    s = signals(jacobian(5, 8, 1))
    wanted = DualProjWeighting(projector=QuadprogProjector(norm_eps=0.0, reg_eps=1e-12))(s.gram)
    torch.testing.assert_close(DualProj()(s), wanted, rtol=1e-6, atol=1e-6)


def test_no_task_is_opposed_even_where_gradients_depend_on_each_other():
    for seed in range(10):
        rows = jacobian(8, 3, seed, spread=1.0)
        gains = rows @ (DualProj()(signals(rows)) @ rows)
        assert (gains >= -1e-8 * rows.square().sum(1)).all()


def test_a_mean_that_opposes_nobody_stays():
    assert DualProj()(signals(jacobian(4, 6, 0).abs())).tolist() == [0.25] * 4


def test_two_tasks_have_a_closed_form():
    gram = torch.tensor([[1.0, -2.0], [-2.0, 8.0]], dtype=torch.float64)
    rows = torch.linalg.cholesky(gram)
    mean_gain = gram[0].mean()
    wanted = torch.tensor([0.5 - float(mean_gain / gram[0, 0]), 0.5]).double()
    torch.testing.assert_close(DualProj()(signals(rows)), wanted)
