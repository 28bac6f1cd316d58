from __future__ import annotations

from itertools import combinations
from unittest.mock import patch

import numpy as np
import pytest
from merging_toys import SHAPES, deltas

from plait.merging.model_stock import ModelStock
from plait.merging.pool import Pool


def shrink(vectors: np.ndarray) -> float:
    """The share of the mean that is kept, from the vectors [M, n]."""
    pairs = [
        one @ two / np.linalg.norm(one) / np.linalg.norm(two)
        for one, two in combinations(vectors, 2)
    ]
    cosine = max(float(np.mean(pairs)), 0)
    return len(vectors) * cosine / (1 + (len(vectors) - 1) * cosine)


@pytest.mark.parametrize("block", [1 << 18, 8])
def test_every_tensor_has_a_ratio_of_its_own(pool: Pool, block: int) -> None:
    turned = {  # alike enough to have ratios between 0 and 1
        name: {key: value + 0.1 * np.cos(np.arange(value.size).reshape(value.shape))
               for key, value in state.items()}
        for name, state in pool.models.items()
    }  # fmt: skip
    pool = Pool({n: {**s, "steps": np.asarray(0)} for n, s in turned.items()}, pool.base)
    with patch("plait.merging.engine.BLOCK", block):
        whole = ModelStock().merge(pool, workers=2).tensors
        rows = ModelStock(per="row").merge(pool).tensors
    for name in SHAPES:
        tau = deltas(pool, name)
        flat = tau.reshape(3, -1)
        wanted = pool.base[name] + shrink(flat) * tau.mean(0)
        np.testing.assert_allclose(whole[name], wanted, atol=1e-12)
        if tau.ndim < 3:  # a vector is one row
            np.testing.assert_allclose(rows[name], wanted, atol=1e-12)
            continue
        for number in range(tau.shape[1]):
            row = pool.base[name][number] + shrink(tau[:, number]) * tau[:, number].mean(0)
            np.testing.assert_allclose(rows[name][number], row, atol=1e-12)


def test_it_is_the_least_squares_step_to_a_further_model() -> None:
    """For equal norms and angles the ratio is the best multiple of the mean for one model more."""
    draw = np.random.default_rng(0)
    axes, _ = np.linalg.qr(draw.normal(size=(12, 5)))
    vectors = (axes[:, 1:] + 0.8 * axes[:, :1]).T  # four, the same angle between any two
    models, further = vectors[:3], vectors[3]
    mean = models.mean(0)
    pool = Pool({f"m{i}": {"w": v} for i, v in enumerate(models)}, {"w": np.zeros(12)})
    merged = ModelStock().merge(pool).tensors["w"]
    np.testing.assert_allclose(merged, (further @ mean) / (mean @ mean) * mean, atol=1e-12)


@pytest.mark.parametrize("per", ["tensor", "row"])
def test_wide_angles_give_the_base(per: str) -> None:
    base = {"w": np.ones(3)}
    for tau in (np.eye(3), np.array([[1.0, 0, 0], [-1.0, 0, 0]]), np.zeros((2, 3))):
        models = {f"m{i}": {"w": base["w"] + row} for i, row in enumerate(tau)}
        merged = ModelStock(per=per).merge(Pool(models, base)).tensors["w"]  # type: ignore[arg-type]
        np.testing.assert_allclose(merged, base["w"], atol=1e-15)


def test_two_models_have_the_closed_form() -> None:
    angle = 0.7
    models = {
        "a": {"w": np.array([2.0, 0.0])},
        "b": {"w": np.array([np.cos(angle), np.sin(angle)])},
    }
    merged = ModelStock().merge(Pool(models, {"w": np.zeros(2)})).tensors["w"]
    cosine = np.cos(angle)
    wanted = 2 * cosine / (1 + cosine) * (models["a"]["w"] + models["b"]["w"]) / 2
    np.testing.assert_allclose(merged, wanted)
