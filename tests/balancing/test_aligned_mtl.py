from __future__ import annotations

import pytest
import torch
from gradients import jacobian, signals
from torchjd.aggregation import AlignedMTLWeighting

from plait.balancing.aligned_mtl import AlignedMTL


@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
@pytest.mark.parametrize(("tasks", "size"), [(1, 3), (2, 5), (7, 20), (6, 3)])
def test_equals_torchjd_which_averages(scale: str, tasks: int, size: int):
    for seed in range(5):
        s = signals(jacobian(tasks, size, seed, spread=1.0))
        wanted = AlignedMTLWeighting(scale_mode=scale)(s.gram) * tasks
        torch.testing.assert_close(AlignedMTL(scale=scale)(s), wanted, rtol=1e-6, atol=1e-9)


def test_the_update_is_as_long_as_orthogonal_rows_of_the_smallest_singular_value():
    rows = jacobian(5, 12, 0, spread=1.0)
    update = AlignedMTL()(signals(rows)) @ rows
    smallest = torch.linalg.svdvals(rows)[-1]
    torch.testing.assert_close(update.square().sum(), 5 * smallest**2)


def test_after_the_alignment_the_condition_number_is_one():
    rows = jacobian(4, 9, 1, spread=2.0)
    left, sizes, right = torch.linalg.svd(rows, full_matrices=False)
    aligned = sizes[-1] * left @ right  # the nearest Jacobian with equal singular values
    torch.testing.assert_close(torch.linalg.cond(aligned), torch.tensor(1.0).double())
    torch.testing.assert_close(AlignedMTL()(signals(rows)) @ rows, aligned.sum(0))


def test_equal_orthogonal_gradients_are_added():
    weights = AlignedMTL()(signals(2 * torch.eye(3, dtype=torch.float64)))
    torch.testing.assert_close(weights, torch.ones(3).double())


def test_scale_is_checked():
    with pytest.raises(ValueError, match="'min', 'median' or 'rmse'"):
        AlignedMTL(scale="max")
