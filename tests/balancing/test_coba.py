from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plait.balancing.base import Signals
from plait.balancing.coba import CoBa


def softmax(values: np.ndarray) -> np.ndarray:
    found = np.exp(values - values.max())
    return found / found.sum()


def slope(values: list[float]) -> float:
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else 0.0


def literal(
    history: np.ndarray, warm_up: int, window: int, tau: float, *, sharpen: bool
) -> np.ndarray:
    """The weights after all steps of a history of losses [steps, T], as the paper writes them."""
    ratios = history / history[0]
    count = ratios.shape[1]
    own, worst = [], []
    for step in range(warm_up, len(ratios) + 1):
        past = ratios[max(0, step - window) : step]
        own.append([slope(list(past[:, i])) for i in range(count)])
        worst.append(slope(list(past.max(1))))
    slopes, series = np.array(own[-window:]), np.array(worst[-window:])
    length = len(series)
    relative = softmax(count * slopes[-1] / np.abs(slopes[-1]).sum())
    absolute = softmax(-length * slopes[-1] / np.abs(slopes).sum(0))
    factor = length * softmax(-tau * length * series / np.abs(series).sum())[-1]
    if not sharpen:
        factor = min(factor, 1.0)
    weights = factor * relative + (1 - factor) * absolute
    if sharpen:
        weights = softmax(count * weights)
        floor = 1 / (10 * count)
        if (weights < floor).any():
            weights = weights * (1 - floor * count) + floor
    return weights


def played(history: np.ndarray, **given: float) -> tuple[CoBa, list[torch.Tensor]]:
    balancer = CoBa(**given)
    names = "abcdef"[: history.shape[1]]
    balancer.bind(names)
    found = []
    for step, row in enumerate(history):
        s = Signals.of(dict.fromkeys(names, 1.0), step=step, validation=torch.tensor(row))
        found.append(balancer(s))
        balancer.advance(s)
    return balancer, found


def noisy(steps: int, falls: list[float], seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    trend = np.exp(-np.outer(np.arange(steps), falls))
    return trend * (1 + 0.05 * draw.normal(size=trend.shape)) * np.array([1.0, 20.0, 0.1])


@pytest.mark.parametrize("sharpen", [False, True])
@pytest.mark.parametrize("window", [5, 12, 100])
def test_equals_the_formulas_written_out(window: int, sharpen: bool):
    history = noisy(40, [0.05, 0.01, -0.02])
    _, found = played(history, warm_up=4, window=window, temperature=5.0, sharpen=sharpen)
    for step in range(4, 41):
        wanted = literal(history[:step], 4, window, 5.0, sharpen=sharpen)
        np.testing.assert_allclose(found[step - 1].numpy(), wanted, rtol=1e-9)


def test_weights_are_even_in_the_warm_up_and_sum_to_one():
    _, found = played(noisy(20, [0.1, 0.01, 0.0]), warm_up=6)
    assert all(weights.tolist() == [1 / 3] * 3 for weights in found[:5])
    assert found[5].tolist() != [1 / 3] * 3
    torch.testing.assert_close(torch.stack(found).sum(1), torch.ones(20).double())


def test_equal_slopes_are_uniform_and_units_do_not_matter():
    line = 1.0 - 0.01 * np.arange(20)
    _, found = played(np.stack([line, line, line], 1), warm_up=3)
    torch.testing.assert_close(found[-1], torch.full((3,), 1 / 3).double())
    history = noisy(20, [0.1, 0.01, 0.0])
    _, one = played(history, warm_up=3)
    _, two = played(history * np.array([1e3, 1e-3, 7.0]), warm_up=3)
    torch.testing.assert_close(one[-1], two[-1])


def test_the_task_that_falls_slowest_gets_most_and_one_that_begins_to_rise_loses():
    steps = np.arange(40)
    falls = np.stack([1 - 0.02 * steps, 1 - 0.005 * steps, 1 - 0.015 * steps], 1)
    _, found = played(falls, warm_up=3, window=10)
    assert found[-1].argmax() == 1
    turns = falls.copy()
    turns[25:, 1] = turns[25, 1] + 0.02 * (steps[25:] - 25)
    _, found = played(turns, warm_up=3, window=10)
    assert found[24].argmax() == 1
    assert found[-1].argmin() == 1


def test_a_task_without_held_out_labels_keeps_its_state_and_counts_evenly():
    history = noisy(20, [0.1, 0.01, 0.0])
    history[:, 2] = np.nan
    balancer, found = played(history, warm_up=3)
    assert found[-1][2].item() == pytest.approx(1 / 3)
    assert balancer.seen.tolist() == [20, 20, 0]
    _, two = played(history[:, :2], warm_up=3)
    torch.testing.assert_close(found[-1][:2] * 3 / 2, two[-1])


def test_a_loss_of_zero_is_finite_and_a_negative_one_is_refused():
    _, found = played(np.zeros((10, 2)), warm_up=3)
    assert found[-1].tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match=r"coba divides by .* task 'b' is negative"):
        played(np.array([[1.0, -1.0]]))


def test_the_divergence_factor_is_capped_unless_sharpened():
    """A worst task that falls ever faster drives the factor past one."""
    steps = np.arange(30)
    history = np.stack([1 - 0.0005 * steps**2, 1 - 0.001 * steps**2], 1)
    _, found = played(history, warm_up=3, window=10)
    relative = literal(history, 3, 10, 5.0, sharpen=False)
    np.testing.assert_allclose(found[-1].numpy(), relative, rtol=1e-9)
    slopes = [slope(list(history[-10:, i])) for i in range(2)]
    by_pace = softmax(2 * np.array(slopes) / np.abs(slopes).sum())
    np.testing.assert_allclose(found[-1].numpy(), by_pace, rtol=1e-9)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="at least 2"):
        CoBa(window=1)
    assert math.isclose(CoBa(temperature=3.0).temperature, 3.0)
