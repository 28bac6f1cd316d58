from __future__ import annotations

import numpy as np
import pytest
import torch
from gradients import jacobian, signals
from torchjd.aggregation import PCGradWeighting

from plait.balancing.base import Signals
from plait.balancing.pcgrad import PCGrad


def order_of(s: Signals) -> np.ndarray:
    noise = s.noise(pairs=True)
    np.fill_diagonal(noise, 2.0)
    return noise.argsort(1)


def by_vectors(rows: torch.Tensor, order: np.ndarray) -> torch.Tensor:
    """The paper's Algorithm 1 on the gradients themselves."""
    total = torch.zeros_like(rows[0])
    for i, row in enumerate(rows):
        moved = row.clone()
        for j in order[i]:
            if j != i and moved @ rows[j] < 0:
                moved = moved - (moved @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
        total += moved
    return total


@pytest.mark.parametrize(("tasks", "size"), [(2, 3), (4, 3), (7, 5), (40, 60)])
def test_equals_the_papers_loop_over_gradients(tasks: int, size: int):
    conflicts = 0
    for seed in range(20 if tasks < 40 else 2):
        rows = jacobian(tasks, size, seed)
        s = signals(rows, step=seed)
        update = PCGrad()(s) @ rows
        torch.testing.assert_close(update, by_vectors(rows, order_of(s)), rtol=1e-10, atol=1e-10)
        conflicts += bool((s.gram < 0).any())
    assert conflicts


def test_equals_torchjd_given_its_order(monkeypatch: pytest.MonkeyPatch):
    for seed in range(20):
        s = signals(jacobian(5, 4, seed), step=seed)
        rows = iter(order_of(s))
        monkeypatch.setattr(torch, "randperm", lambda _, rows=rows: torch.from_numpy(next(rows)))
        wanted = PCGradWeighting()(s.gram)
        torch.testing.assert_close(PCGrad()(s), wanted, rtol=1e-10, atol=1e-10)


def test_two_tasks_have_a_closed_form():
    gram = torch.tensor([[4.0, -1.0], [-1.0, 0.5]], dtype=torch.float64)
    weights = PCGrad()(Signals.of({"a": 1.0, "b": 1.0}, gram=gram))
    torch.testing.assert_close(weights, torch.tensor([1 + 1 / 4, 1 + 1 / 0.5]).double())


def test_without_conflict_it_is_the_sum():
    rows = jacobian(4, 6, 0).abs()
    assert PCGrad()(signals(rows)).tolist() == [1.0] * 4
    assert PCGrad(reduce="mean")(signals(rows)).tolist() == [0.25] * 4


def test_mean_is_the_sum_divided_by_the_tasks_present():
    s = signals(jacobian(5, 4, 1))
    torch.testing.assert_close(PCGrad(reduce="mean")(s) * 5, PCGrad()(s))


def test_two_tasks_are_never_opposed():
    for seed in range(30):
        rows = jacobian(2, 3, seed)
        update = PCGrad()(signals(rows)) @ rows
        assert (rows @ update >= -1e-12).all()


def test_the_order_is_drawn_anew_for_every_step_and_seed():
    rows = jacobian(6, 4, 3)
    drawn = {tuple(PCGrad()(signals(rows, step=step)).tolist()) for step in range(10)}
    drawn |= {tuple(PCGrad()(signals(rows, seed=seed)).tolist()) for seed in range(1, 10)}
    assert len(drawn) > 10


def test_a_task_without_gradient_changes_nothing():
    rows = jacobian(3, 4, 0)
    rows[1] = 0
    weights = PCGrad()(signals(rows))
    torch.testing.assert_close(weights @ rows, by_vectors(rows[[0, 2]], np.array([[1], [0]])))


def test_reduce_is_checked():
    with pytest.raises(ValueError, match="'sum' or 'mean'"):
        PCGrad(reduce="total")
