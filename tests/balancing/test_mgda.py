from __future__ import annotations

import pytest
import torch
from gradients import jacobian, signals
from scipy.optimize import minimize

from plait.balancing.mgda import MGDA


def test_two_tasks_have_a_closed_form():
    for seed in range(30):
        s = signals(jacobian(2, 3, seed, spread=1.0))
        (a, b), (_, d) = s.gram
        first = ((d - b) / (a + d - 2 * b)).clamp(0, 1)
        torch.testing.assert_close(MGDA()(s), torch.stack([first, 1 - first]))


def test_orthogonal_gradients_weigh_by_their_inverse_squares():
    lengths = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    wanted = lengths**-2 / (lengths**-2).sum()
    torch.testing.assert_close(MGDA()(signals(torch.diag(lengths))), wanted)


@pytest.mark.parametrize(("tasks", "size"), [(3, 5), (8, 20), (40, 100), (9, 4), (200, 300)])
def test_no_combination_is_shorter(tasks: int, size: int):
    """The optimality conditions: every gradient gains at least the squared length."""
    for seed in range(5 if tasks < 100 else 1):
        rows = jacobian(tasks, size, seed, spread=1.0)
        weights = MGDA()(signals(rows))
        update = weights @ rows
        gains = rows @ update
        scale = rows.square().sum(1).max()
        assert weights.min() >= 0
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0).double())
        assert (gains >= update.square().sum() - 1e-10 * scale).all()
        used = weights > 1e-9
        assert (gains[used] <= update.square().sum() + 1e-8 * scale).all()


def test_equals_a_general_optimiser():
    gram = signals(jacobian(4, 6, 3)).gram.numpy()
    found = minimize(
        lambda w: w @ gram @ w, [0.25] * 4, method="SLSQP", bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-14},
    ).x  # fmt: skip
    weights = MGDA()(signals(jacobian(4, 6, 3)))
    torch.testing.assert_close(weights, torch.from_numpy(found), rtol=1e-5, atol=1e-5)


def test_normalised_by_lengths_two_tasks_share_alike():
    weights = MGDA(normalise="l2")(signals(jacobian(2, 4, 0, spread=2.0)))
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5]).double())


@pytest.mark.parametrize("normalise", ["loss", "loss+"])
def test_normalised_by_losses_it_solves_for_the_divided_gradients(normalise: str):
    rows, losses = jacobian(3, 5, 2), [0.5, 2.0, 4.0]
    size = torch.tensor(losses).double()
    if normalise == "loss+":
        size = size * rows.norm(dim=1)
    wanted = MGDA()(signals(rows / size[:, None]))
    torch.testing.assert_close(MGDA(normalise=normalise)(signals(rows, losses)), wanted)


def test_a_task_without_a_gradient_holds_nobody_up():
    rows = jacobian(3, 4, 0)
    rows[1] = 0
    weights = MGDA()(signals(rows))
    assert weights[1] == 0
    torch.testing.assert_close(weights[[0, 2]], MGDA()(signals(rows[[0, 2]])))


def test_bad_settings_and_losses_are_refused():
    with pytest.raises(ValueError, match="none, l2, loss or loss"):
        MGDA(normalise="l1")
    with pytest.raises(ValueError, match="task 't1' is not positive"):
        MGDA(normalise="loss")(signals(jacobian(2, 3, 0), [1.0, 0.0]))
