from __future__ import annotations

import pytest
import torch

from plait.balancing.base import Signals
from plait.balancing.random import Random


def draws(balancer: Random, names: str = "abcd", count: int = 4_000, **given: int) -> torch.Tensor:
    losses = dict.fromkeys(names, 1.0)
    return torch.stack([balancer(Signals.of(losses, step=step, **given)) for step in range(count)])


@pytest.mark.parametrize("distribution", ["normal", "dirichlet"])
def test_weights_sum_to_one_and_are_even_in_the_mean(distribution: str):
    found = draws(Random(distribution=distribution))
    torch.testing.assert_close(found.sum(1), torch.ones(4_000).double())
    assert (found > 0).all()
    error = found.std(0) / 4_000**0.5
    assert ((found.mean(0) - 0.25).abs() < 5 * error).all()


def test_dirichlet_weights_are_uniform_on_the_simplex():
    """Their variance is (T − 1)/(T²(T + 1))."""
    found = draws(Random(distribution="dirichlet"), count=20_000)
    torch.testing.assert_close(found.var(0), torch.full((4,), 3 / 80).double(), rtol=0.05, atol=0)


def test_normal_weights_are_the_softmax_of_standard_normals():
    logs = draws(Random(), count=20_000).log()
    gap = logs[:, 0] - logs[:, 1]
    assert abs(gap.mean()) < 0.05
    assert gap.var().item() == pytest.approx(2.0, rel=0.05)
    inside = (gap.abs() < 2**0.5).double().mean().item()
    assert inside == pytest.approx(0.6827, abs=0.015)


def test_total_may_be_the_number_of_tasks():
    one, many = Random(), Random(total="tasks")
    torch.testing.assert_close(draws(many, count=5), draws(one, count=5) * 4)


def test_an_absent_task_changes_no_other_draw():
    whole, some = draws(Random(), "abcd", 20), draws(Random(), "bd", 20)
    torch.testing.assert_close(whole[:, 1] / whole[:, 3], some[:, 0] / some[:, 1])


def test_draws_differ_by_step_and_seed():
    found = draws(Random(), count=10)
    assert len({tuple(row.tolist()) for row in found}) == 10
    assert not torch.isclose(found, draws(Random(), count=10, seed=1)).any()


def test_settings_are_checked():
    with pytest.raises(ValueError, match="normal or dirichlet"):
        Random(distribution="uniform")
    with pytest.raises(ValueError, match="'one' or 'tasks'"):
        Random(total="two")
