from __future__ import annotations

import numpy as np
import pytest
from merging_toys import SHAPES, deltas

from plait.merging.pool import Pool
from plait.merging.wudi import Wudi

MATRICES = ("a.0.weight", "a.1.weight")


def loss(x: np.ndarray, stack: np.ndarray) -> float:
    """The paper's objective."""
    return sum(np.sum(((x - d) @ d.T) ** 2) / np.sum(d**2) for d in stack)


def slope(x: np.ndarray, stack: np.ndarray) -> np.ndarray:
    """Its gradient, task by task."""
    return sum(2 * (x - d) @ d.T @ d / np.sum(d**2) for d in stack)


def found(pool: Pool, name: str, **settings: object) -> np.ndarray:
    merged = Wudi(**settings).merge(pool).tensors  # type: ignore[arg-type]
    return merged[name] - pool.base[name]


@pytest.mark.parametrize("name", MATRICES)
def test_it_is_adam_on_the_papers_objective(pool: Pool, name: str) -> None:
    stack = deltas(pool, name)
    x = stack.sum(0)
    first, second = np.zeros_like(x), np.zeros_like(x)
    for step in range(1, 41):
        g = slope(x, stack)
        first = 0.9 * first + 0.1 * g
        second = 0.999 * second + 0.001 * g**2
        x = x - 1e-3 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(found(pool, name, steps=40, rate=1e-3), x, atol=1e-10)


@pytest.mark.parametrize("name", MATRICES)
def test_steps_come_near_the_limit_and_the_limit_is_a_minimum(pool: Pool, name: str) -> None:
    stack = deltas(pool, name)
    limit = found(pool, name, solver="limit")
    assert np.abs(slope(limit, stack)).max() < 1e-10
    losses = [
        loss(found(pool, name, steps=steps, rate=1e-3), stack) for steps in (0, 50, 400, 3000)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 20 + 1.05 * loss(limit, stack)


def test_the_limit_stays_at_the_sum_where_no_task_looks() -> None:
    draw = np.random.default_rng(0)
    stack = draw.normal(size=(2, 3, 10))
    pool = Pool({"a": {"w": stack[0]}, "b": {"w": stack[1]}}, {"w": np.zeros((3, 10))})
    moved = found(pool, "w", solver="limit") - stack.sum(0)
    unseen = np.eye(10) - np.linalg.pinv(stack.reshape(6, 10)) @ stack.reshape(6, 10)
    np.testing.assert_allclose(moved @ unseen, 0, atol=1e-10)


@pytest.mark.parametrize("solver", ["adam", "limit"])
def test_tasks_that_do_not_interfere_are_added_up(solver: str) -> None:
    a, b = np.zeros((2, 4)), np.zeros((2, 4))
    a[:, :2], b[:, 2:] = [[1.0, 2.0], [0.0, 1.0]], [[-1.0, 1.0], [3.0, 0.5]]
    pool = Pool({"a": {"w": a}, "b": {"w": b}}, {"w": np.zeros((2, 4))})
    np.testing.assert_allclose(found(pool, "w", solver=solver), a + b, atol=1e-12)


def test_a_model_equal_to_the_base_changes_nothing(pool: Pool) -> None:
    models = {**pool.models, "still": pool.base}
    more = Pool(models, pool.base)
    for name in MATRICES:
        np.testing.assert_allclose(found(more, name), found(pool, name), atol=1e-14)


def test_what_is_no_linear_layer_stays_or_is_averaged(pool: Pool) -> None:
    for name in ("a.0.bias", "a.1.scale"):
        assert (found(pool, name) == 0).all()
        mean = deltas(pool, name).mean(0)
        np.testing.assert_allclose(found(pool, name, others="mean"), mean, atol=1e-14)
    rows = {"embed_tokens.weight": np.ones((4, 3)), "lm_head.weight": np.ones((4, 3))}
    zero = {name: np.zeros((4, 3)) for name in rows}
    kept = Wudi().merge(Pool({"a": rows}, zero)).tensors
    assert all((value == 0).all() for value in kept.values())
    assert (Wudi(leave=()).merge(Pool({"a": rows}, zero)).tensors["lm_head.weight"] == 1).all()


def test_every_tensor_is_there(pool: Pool) -> None:
    assert set(Wudi().merge(pool).tensors) == {*SHAPES, "steps"}
