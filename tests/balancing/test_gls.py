from __future__ import annotations

import pytest
import torch
from torchjd.scalarization import GeometricMean

from plait.balancing.base import Signals
from plait.balancing.gls import GLS


def weights(values: torch.Tensor) -> torch.Tensor:
    losses = {f"t{i}": float(value) for i, value in enumerate(values)}
    return GLS()(Signals.of(losses))


@pytest.mark.parametrize("tasks", [1, 2, 5, 40])
def test_equals_torchjd_and_the_root_of_the_product(tasks: int):
    draw = torch.Generator().manual_seed(tasks)
    values = torch.rand(tasks, generator=draw, dtype=torch.float64) * 3 + 0.1
    there, here = values.clone().requires_grad_(), values.clone().requires_grad_()
    GeometricMean()(there).backward()
    here.prod().pow(1 / tasks).backward()
    torch.testing.assert_close(weights(values), there.grad, rtol=1e-10, atol=0)
    torch.testing.assert_close(weights(values), here.grad, rtol=1e-10, atol=0)


def test_a_factor_on_one_loss_changes_the_size_and_not_the_way():
    values = torch.tensor([0.3, 2.0, 7.0]).double()
    scaled = values * torch.tensor([16.0, 1.0, 1.0]).double()
    ratio = weights(scaled) * torch.tensor([16.0, 1.0, 1.0]).double() / weights(values)
    torch.testing.assert_close(ratio, torch.full((3,), 16 ** (1 / 3)).double())


def test_many_small_losses_do_not_vanish():
    found = weights(torch.full((200,), 1e-7).double())
    torch.testing.assert_close(found, torch.full((200,), 1 / 200).double())


def test_a_loss_of_zero_is_finite_and_a_negative_one_is_refused():
    assert weights(torch.tensor([0.0, 1.0])).isfinite().all()
    with pytest.raises(ValueError, match=r"gls takes logarithms .* task 't1' is negative"):
        weights(torch.tensor([1.0, -0.5]))
