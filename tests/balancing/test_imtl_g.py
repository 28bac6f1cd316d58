from __future__ import annotations

import pytest
import torch
from gradients import jacobian, signals
from torchjd.aggregation import IMTLGWeighting

from plait.balancing.imtl_g import IMTLG


def authors_form(rows: torch.Tensor) -> torch.Tensor:
    """α₂… = g₁Uᵀ(DUᵀ)⁻¹ with D = g₁ − g_j and U = u₁ − u_j; α₁ is the rest."""
    units = rows / rows.norm(dim=1, keepdim=True)
    d, u = rows[0] - rows[1:], units[0] - units[1:]
    rest = (rows[0] @ u.T) @ torch.linalg.inv(d @ u.T)
    return torch.cat([1 - rest.sum()[None], rest])


@pytest.mark.parametrize(("tasks", "size"), [(2, 4), (5, 9), (12, 30)])
def test_equals_the_authors_form_and_torchjd(tasks: int, size: int):
    for seed in range(10):
        rows = jacobian(tasks, size, seed)
        weights = IMTLG()(signals(rows))
        wanted = authors_form(rows)
        if weights.sum() > 0:
            torch.testing.assert_close(weights, wanted, rtol=1e-8, atol=1e-8)
            jd = IMTLGWeighting()(rows @ rows.T)
            torch.testing.assert_close(weights, jd, rtol=1e-6, atol=1e-6)


def test_every_gradient_has_the_same_projection_on_the_update():
    for seed in range(20):
        rows = jacobian(6, 10, seed, spread=2.0)
        gains = rows @ (IMTLG()(signals(rows)) @ rows) / rows.norm(dim=1)
        assert gains.min() > 0
        torch.testing.assert_close(gains, gains.mean().expand(6))


def test_two_tasks_weigh_by_the_other_ones_length():
    rows = jacobian(2, 4, 1, spread=1.0)
    lengths = rows.norm(dim=1)
    torch.testing.assert_close(IMTLG()(signals(rows)), lengths.flip(0) / lengths.sum())


def test_parallel_gradients_are_shared():
    rows = torch.tensor([[1.0, 2.0], [1.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(IMTLG()(signals(rows)), torch.tensor([0.5, 0.5]).double())
