from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest

from plait.merging.arcee_fusion import ArceeFusion
from plait.merging.pool import Pool


def fused(model: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Importance row by row, and quartiles by sorting."""

    def softmax(row: np.ndarray) -> np.ndarray:
        return np.exp(row) / np.exp(row).sum() + 1e-8

    rows, width = np.reshape(model, (-1, np.shape(model)[-1])), np.shape(model)[-1]
    importance = []
    for row, start in zip(rows, base.reshape(-1, width), strict=True):
        p, q = softmax(row), softmax(start)
        importance.append(np.abs(row - start) * (p * np.log(p / q)).sum())
    rising = np.sort(np.ravel(importance))
    first, median, third = (rising[int(q * (rising.size - 1))] for q in (0.25, 0.5, 0.75))
    kept = np.stack(importance) >= median + 1.5 * (third - first)
    return np.where(kept.reshape(model.shape), model, base)


@pytest.mark.parametrize("block", [1 << 18, 8])
def test_it_is_mergekits_formula(pool: Pool, block: int) -> None:
    with patch("plait.merging.engine.BLOCK", block):
        merged = ArceeFusion().merge(Pool({"x": pool.models["x"]}, pool.base)).tensors
    for name in ("a.0.weight", "a.0.bias", "a.1.weight"):
        wanted = fused(pool.models["x"][name], pool.base[name])
        np.testing.assert_allclose(merged[name], wanted, atol=1e-12)
        assert 0 < np.count_nonzero(wanted != pool.base[name]) < wanted.size
    assert merged["a.1.scale"] == pool.models["x"]["a.1.scale"]  # nothing to compare with


def test_rows_may_change_places(pool: Pool) -> None:
    name = "a.0.weight"
    turned = {"w": pool.models["x"][name][::-1]}, {"w": pool.base[name][::-1]}
    merged = ArceeFusion().merge(Pool({"x": turned[0]}, turned[1])).tensors["w"]
    wanted = ArceeFusion().merge(Pool({"x": pool.models["x"]}, pool.base)).tensors[name]
    np.testing.assert_array_equal(merged[::-1], wanted)


def test_quartiles_of_large_tensors_are_exact_in_float32() -> None:
    draw = np.random.default_rng(2)
    base = draw.normal(size=(40, 500)).astype(np.float32)
    model = base + draw.standard_cauchy(base.shape).astype(np.float32) / 100
    merged = ArceeFusion().merge(Pool({"x": {"w": model}}, {"w": base})).tensors["w"]
    wanted = fused(model.astype(np.float64), base.astype(np.float64))
    assert np.mean((merged != base) != (wanted != base)) < 2e-4  # importance itself is rounded
