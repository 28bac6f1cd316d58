from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from plait.merging.average import Average
from plait.merging.pool import Pool


def make(count: int, dtype: type = np.float32) -> dict[str, dict[str, np.ndarray]]:
    numbers = np.random.default_rng(0)
    return {
        f"m{i}": {"w": numbers.normal(size=(3, 4)).astype(dtype), "n": np.array([i], np.int64)}
        for i in range(count)
    }


def test_the_mean_of_the_models() -> None:
    models = make(3)
    merged = Average().merge(Pool(models)).tensors
    wanted = np.mean([m["w"] for m in models.values()], axis=0)
    np.testing.assert_allclose(merged["w"], wanted, rtol=1e-6)
    assert merged["w"].dtype == np.float32


def test_weights_are_normalised_and_checked() -> None:
    models = make(2)
    merged = Average(weights={"m0": 3, "m1": 1}).merge(Pool(models)).tensors
    wanted = 0.75 * models["m0"]["w"] + 0.25 * models["m1"]["w"]
    np.testing.assert_allclose(merged["w"], wanted, rtol=1e-6)
    with pytest.raises(ValueError, match="differ in: m1, other"):
        Average(weights={"m0": 1, "other": 1}).merge(Pool(models))
    with pytest.raises(ValueError, match="not all zero"):
        Average(weights={"m0": 0.0})


def test_integers_are_copied_not_averaged() -> None:
    assert Average().merge(Pool(make(3))).tensors["n"].tolist() == [0]


def test_half_precision_is_summed_in_float32() -> None:
    # In float16, 2048 + 1 = 2048: adding one by one would lose every small term.
    models = {f"m{i}": {"w": np.array([2048.0 if i == 0 else 1.0], np.float16)} for i in range(64)}
    merged = Average().merge(Pool(models)).tensors["w"]
    assert merged.dtype == np.float16
    assert merged[0] == np.float16((2048 + 63) / 64)


def test_the_order_of_models_does_not_matter() -> None:
    models = make(5)
    backwards = dict(reversed(models.items()))
    a, b = Average().merge(Pool(models)), Average().merge(Pool(backwards))
    np.testing.assert_allclose(a.tensors["w"], b.tensors["w"], rtol=1e-5, atol=1e-7)


def test_merging_weights_loads_no_torch() -> None:
    code = (
        "import sys, plait.merging.average, plait.merging.task_arithmetic, plait.weights.states;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
