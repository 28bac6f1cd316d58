from __future__ import annotations

import pytest
import torch
from gradients import jacobian, signals
from scipy.optimize import minimize
from torchjd.aggregation import CAGradWeighting

from plait.balancing.cagrad import CAGrad
from plait.balancing.mgda import MGDA


@pytest.mark.parametrize("c", [0.2, 0.5, 2.0])
@pytest.mark.parametrize(("tasks", "size"), [(2, 3), (5, 9), (20, 50)])
def test_equals_torchjd(c: float, tasks: int, size: int):
    for seed in range(3):
        s = signals(jacobian(tasks, size, seed))
        wanted = CAGradWeighting(c=c, norm_eps=0.0)(s.gram)
        torch.testing.assert_close(CAGrad(c=c, rescale=0)(s), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("c", [0.4, 0.9])
def test_no_mixture_is_better(c: float):
    """The convex problem of the paper, beside a general optimiser from several starts."""
    for seed in range(5):
        rows = jacobian(6, 10, seed, spread=1.0)
        gram = (rows @ rows.T).numpy()
        gram /= gram.diagonal().mean()
        mean = torch.full((6,), 1 / 6).double().numpy()
        radius = c * (mean @ gram @ mean) ** 0.5

        def value(w, gram=gram, mean=mean, radius=radius):
            return w @ gram @ mean + radius * (w @ gram @ w) ** 0.5

        alpha = CAGrad(c=c, rescale=0)(signals(rows)).numpy() - mean
        mine = value(alpha / alpha.sum())
        for start in range(4):
            draw = torch.rand(6, generator=torch.Generator().manual_seed(start)).double().numpy()
            found = minimize(
                value, draw / draw.sum(), method="SLSQP", bounds=[(0, 1)] * 6,
                constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-13},
            )  # fmt: skip
            assert mine <= found.fun + 1e-9


@pytest.mark.parametrize(("tasks", "size"), [(3, 5), (40, 100), (8, 4), (200, 300)])
def test_the_update_lies_on_the_ball_around_the_mean_gradient(tasks: int, size: int):
    rows = jacobian(tasks, size, 0, spread=1.0)
    mean = rows.mean(0)
    update = CAGrad(c=0.5, rescale=0)(signals(rows)) @ rows
    torch.testing.assert_close((update - mean).norm(), 0.5 * mean.norm())


def test_its_worst_gain_is_no_worse_than_anywhere_else_on_the_ball():
    rows = jacobian(3, 5, 1)
    mean = rows.mean(0)
    update = CAGrad(c=0.5, rescale=0)(signals(rows)) @ rows
    draw = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0)).double()
    ball = mean + 0.5 * mean.norm() * draw / draw.norm(dim=1, keepdim=True)
    assert (rows @ update).min() >= (rows @ ball.T).min(0).values.max() - 1e-9


def test_without_a_radius_it_is_the_mean_and_with_a_large_one_mgdas_direction():
    rows = jacobian(4, 7, 2)
    assert CAGrad(c=0.0)(signals(rows)).tolist() == [0.25] * 4
    far = CAGrad(c=1e5, rescale=2)(signals(rows)) @ rows
    shortest = MGDA()(signals(rows)) @ rows
    cosine = far @ shortest / far.norm() / shortest.norm()
    torch.testing.assert_close(cosine, torch.tensor(1.0).double(), rtol=1e-4, atol=1e-4)


def test_rescaling():
    s = signals(jacobian(3, 5, 0))
    plain = CAGrad(c=0.5, rescale=0)(s)
    torch.testing.assert_close(CAGrad(c=0.5)(s), plain / 1.25)
    torch.testing.assert_close(CAGrad(c=0.5, rescale=2)(s), plain / 1.5)


def test_opposite_gradients_give_the_mean():
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert CAGrad(rescale=0)(signals(rows)).tolist() == [0.5, 0.5]


def test_settings_are_checked():
    with pytest.raises(ValueError, match="c must not be negative"):
        CAGrad(c=-1)
    with pytest.raises(ValueError, match="rescale must be 0, 1 or 2"):
        CAGrad(rescale=3)
