from __future__ import annotations

import numpy as np
import pytest
from merging_toys import SHAPES, deltas

from plait.merging.pool import Pool
from plait.merging.tsv import Tsv
from plait.merging.tsv_c import TsvC
from plait.weights.sinks import Memory

MATRICES = ("a.0.weight", "a.1.weight")


def orthogonal(matrix: np.ndarray) -> np.ndarray:
    """The polar factor by the inverse root of the Gramian, where the columns are independent."""
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    return matrix @ vectors @ np.diag(values**-0.5) @ vectors.T


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_it_is_the_papers_algorithm(pool: Pool, scale: float) -> None:
    merged = Tsv(scale=scale).merge(pool).tensors
    for name in MATRICES:
        stack = deltas(pool, name)
        share = min(stack.shape[1:]) // 3
        left, values, right = [], [], []
        for delta in stack:
            u, s, vt = np.linalg.svd(delta)
            left.append(u[:, :share])
            values.append(s[:share])
            right.append(vt[:share].T)
        u, v = orthogonal(np.hstack(left)), orthogonal(np.hstack(right))
        wanted = scale * u @ np.diag(np.concatenate(values)) @ v.T
        np.testing.assert_allclose(merged[name] - pool.base[name], wanted, atol=1e-10)
    for name in ("a.0.bias", "a.1.scale"):
        wanted = scale * deltas(pool, name).mean(0)
        np.testing.assert_allclose(merged[name] - pool.base[name], wanted, atol=1e-14)


def low(seed: int, columns: slice) -> np.ndarray:
    """A matrix [12, 9] of rank 2 with rows and columns in a block of its own."""
    draw = np.random.default_rng(seed)
    found = np.zeros((12, 9))
    found[columns, columns] = draw.normal(size=(3, 2)) @ draw.normal(size=(2, 3))
    return found


def test_experts_that_share_no_direction_are_added_up() -> None:
    own = [low(seed, slice(3 * seed, 3 * seed + 3)) for seed in range(3)]
    pool = Pool({f"m{i}": {"w": one} for i, one in enumerate(own)}, {"w": np.zeros((12, 9))})
    np.testing.assert_allclose(Tsv(scale=1.0).merge(pool).tensors["w"], sum(own), atol=1e-12)


def test_equal_experts_are_not_doubled() -> None:
    same = low(0, slice(0, 3))
    pool = Pool({"a": {"w": same}, "b": {"w": same}}, {"w": np.zeros((12, 9))})
    np.testing.assert_allclose(Tsv(scale=1.0).merge(pool).tensors["w"], same, atol=1e-12)


def test_more_experts_than_directions_still_merge() -> None:
    draw = np.random.default_rng(0)
    models = {f"m{i}": {"w": draw.normal(size=(2, 3))} for i in range(5)}
    merged = Tsv(scale=1.0).merge(Pool(models, {"w": np.zeros((2, 3))})).tensors["w"]
    assert np.linalg.matrix_rank(merged) == 2


def test_a_task_is_served_its_leading_triplets(pool: Pool) -> None:
    merged = TsvC().merge(pool)
    for number, task in enumerate(pool.names):
        served = merged.tasks[task]
        for name in MATRICES:
            own = deltas(pool, name)[number]
            share = min(own.shape) // 3
            found = served[name] - pool.base[name]
            assert np.linalg.matrix_rank(found, tol=1e-9) == share
            dropped = np.linalg.svd(own, compute_uv=False)[share:]
            np.testing.assert_allclose(np.linalg.norm(own - found) ** 2, np.sum(dropped**2))
        for name in ("a.0.bias", "a.1.scale"):
            np.testing.assert_allclose(served[name], pool.models[task][name], atol=1e-14)
    plain = Tsv(scale=1.0).merge(pool).tensors
    for name in SHAPES:
        np.testing.assert_array_equal(merged.tensors[name], plain[name])


def test_all_tasks_keep_little_more_than_one_matrix() -> None:
    draw = np.random.default_rng(1)
    models = {f"m{i}": {"w": draw.normal(size=(64, 64))} for i in range(4)}
    sink = Memory()
    TsvC().merge(Pool(models, {"w": np.zeros((64, 64))}), sink=sink)
    numbers = sum(value.size for task in models for value in sink.kept(task).values())
    assert numbers == 2 * 64 * 64
