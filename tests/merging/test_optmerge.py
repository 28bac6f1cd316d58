from __future__ import annotations

import numpy as np
import pytest
from merging_toys import deltas

from plait.merging.optmerge import Optmerge
from plait.merging.pool import Pool

MATRICES = ("a.0.weight", "a.1.weight")


def truncated(matrix: np.ndarray, rank: int) -> np.ndarray:
    u, s, vt = np.linalg.svd(matrix)
    return u[:, :rank] @ np.diag(s[:rank]) @ vt[:rank]


def slope(x: np.ndarray, stack: np.ndarray, recipe: str) -> np.ndarray:
    """The gradient of the paper's objective, task by task."""
    rank, mean, total = min(stack.shape[1:]) // len(stack), stack.mean(0), np.zeros_like(x)
    for delta in stack:
        _, s, vt = np.linalg.svd(delta)
        seen = np.diag(s[:rank]) @ vt[:rank]
        target = truncated(delta, rank)
        if recipe == "full":
            target = mean + truncated(delta - mean, rank)
        total += 2 * (x - target) @ seen.T @ seen / np.linalg.norm(delta) ** 2
    return total


def found(pool: Pool, name: str, **settings: object) -> np.ndarray:
    merged = Optmerge(**settings).merge(pool).tensors  # type: ignore[arg-type]
    return merged[name] - pool.base[name]


@pytest.mark.parametrize("name", MATRICES)
def test_the_full_recipe_is_adam_from_the_sum(pool: Pool, name: str) -> None:
    stack = deltas(pool, name)
    x = stack.sum(0)
    first, second = np.zeros_like(x), np.zeros_like(x)
    for step in range(1, 41):
        g = slope(x, stack, "full")
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        x = x - 1e-5 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(found(pool, name, scale=1.0, steps=40), x, atol=1e-11)
    np.testing.assert_allclose(found(pool, name, steps=40), 0.1 * x, atol=1e-11)


@pytest.mark.parametrize("name", MATRICES)
def test_the_lora_recipe_is_descent_with_momentum_from_the_mean(pool: Pool, name: str) -> None:
    stack = deltas(pool, name)
    x, pace = stack.mean(0), np.zeros(stack.shape[1:])
    for _ in range(60):
        pace = 0.9 * pace + slope(x, stack, "lora")
        x = x - 1e-4 * pace
    np.testing.assert_allclose(found(pool, name, recipe="lora", steps=60), x, atol=1e-12)


def minimum(stack: np.ndarray) -> np.ndarray:
    """The minimiser of the LoRA recipe, all tasks' equations as one system."""
    rank, seen, aims = min(stack.shape[1:]) // len(stack), [], []
    for delta in stack:
        _, s, vt = np.linalg.svd(delta)
        seen.append(vt[:rank].T * s[:rank] / np.linalg.norm(delta))
        aims.append(truncated(delta, rank) @ seen[-1])
    return np.linalg.lstsq(np.hstack(seen).T, np.hstack(aims).T, rcond=None)[0].T


@pytest.mark.parametrize("name", MATRICES)
def test_steps_lead_to_the_minimum(pool: Pool, name: str) -> None:
    stack = deltas(pool, name)
    best = minimum(stack)
    assert np.abs(slope(best, stack, "lora")).max() < 1e-12
    gaps = [
        np.linalg.norm(slope(found(pool, name, recipe="lora", steps=steps), stack, "lora"))
        for steps in (0, 300, 3000, 30_000)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < gaps[0] / 20


def test_one_model_comes_back_and_others_stay_or_are_averaged(pool: Pool) -> None:
    alone = Pool({"x": pool.models["x"]}, pool.base)
    for recipe in ("full", "lora"):
        own = found(alone, "a.0.weight", recipe=recipe, scale=1.0)
        np.testing.assert_allclose(own, deltas(alone, "a.0.weight")[0], atol=1e-6)
    assert (found(pool, "a.0.bias") == 0).all()
    mean = found(pool, "a.0.bias", others="mean", scale=0.5)
    np.testing.assert_allclose(mean, 0.5 * deltas(pool, "a.0.bias").mean(0), atol=1e-14)
