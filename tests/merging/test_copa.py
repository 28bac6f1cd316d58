from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from plait.merging.copa import Copa
from plait.merging.pool import Pool, PoolError
from plait.weights.adapters import Adapter
from plait.weights.states import write_state

A, B = "q.lora_A.weight", "q.lora_B.weight"


def adapters(count: int = 3, rank: int = 10) -> dict[str, dict[str, np.ndarray]]:
    draw = np.random.default_rng(4)
    return {
        f"m{i}": {
            B: draw.normal(size=(7, rank)),  # before its A: the order of the file is free
            A: draw.normal(size=(rank, 12)) * draw.uniform(0.6, 1.5, size=(rank, 1)),
            "norm.weight": draw.normal(size=5),
        }
        for i in range(count)
    }


def pruned(matrix: np.ndarray, keep: float) -> np.ndarray:
    """As the authors' code: all from the ⌊(1 − keep) N⌋-th smallest on, counted from 1."""
    least = np.sort(np.abs(matrix).ravel())[int(matrix.size * (1 - keep)) - 1]
    return matrix * (np.abs(matrix) >= least)


def scales(matrix: np.ndarray, keep: float) -> np.ndarray:
    raw = np.array([np.abs(row).sum() for row in matrix])
    left = np.array([np.abs(row).sum() for row in pruned(matrix, keep)])
    found = raw / left
    return np.maximum(found, np.sort(found)[int(len(found) * 0.8)])


@pytest.mark.parametrize("keep", [0.4, 0.7])
def test_it_is_the_authors_procedure(keep: float) -> None:
    models = adapters()
    merged = Copa(keep=keep).merge(Pool(models)).tensors
    down = sum(2 * pruned(m[A], keep) for m in models.values())
    np.testing.assert_allclose(merged[A], down, atol=1e-12)
    weights = [scales(m[A], keep) for m in models.values()]
    parts = [2 * pruned(m[B], keep) * w for m, w in zip(models.values(), weights, strict=True)]
    np.testing.assert_allclose(merged[B], sum(parts) / sum(weights), atol=1e-12)
    mean = np.mean([m["norm.weight"] for m in models.values()], axis=0)
    np.testing.assert_allclose(merged["norm.weight"], mean, atol=1e-14)


def test_one_adapter_comes_back_with_both_factors_scaled() -> None:
    model = adapters(1)["m0"]
    merged = Copa(keep=0.5).merge(Pool({"m0": model})).tensors
    np.testing.assert_allclose(merged[A], 2 * pruned(model[A], 0.5), atol=1e-14)
    np.testing.assert_allclose(merged[B], 2 * pruned(model[B], 0.5), atol=1e-14)


def test_copies_add_up_in_a_and_not_in_b() -> None:
    model = adapters(1)["m0"]
    merged = Copa().merge(Pool(dict.fromkeys("abcd", model))).tensors
    alone = Copa().merge(Pool({"a": model})).tensors
    np.testing.assert_allclose(merged[A], 4 * alone[A], atol=1e-12)
    np.testing.assert_allclose(merged[B], alone[B], atol=1e-12)


def test_a_row_that_is_pruned_whole_takes_the_largest_scale() -> None:
    down = np.vstack([np.full((1, 8), 1e-6), np.linspace(1, 2, 32).reshape(4, 8)])
    models = {name: {A: down * factor, B: np.ones((3, 5))} for name, factor in (("a", 1), ("b", 3))}
    merged = Copa(keep=0.5).merge(Pool(models)).tensors
    assert np.isfinite(merged[B]).all()
    np.testing.assert_allclose(merged[B], 2.0)


def test_what_has_no_factors_to_merge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"no lora_A of the same rank for 'q.lora_B.weight'"):
        Copa().merge(Pool({"a": {B: np.ones((3, 2))}}))
    with pytest.raises(PoolError, match="of the same rank"):
        Copa().merge(Pool({"a": {B: np.ones((3, 2)), A: np.ones((4, 5))}}))
    prefix = "base_model.model."
    state = {
        f"{prefix}q.lora_A.weight": np.ones((2, 4), np.float32),
        f"{prefix}q.lora_B.weight": np.ones((3, 2), np.float32),
    }
    write_state(tmp_path / "adapter_model.safetensors", state)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    base = {"q.weight": np.zeros((3, 4), np.float32)}
    with pytest.raises(PoolError, match=r"adapter_model\.safetensors"):
        Copa().merge(Pool({"a": Adapter(tmp_path)}, base))
    with pytest.raises(ValueError, match="keep is a share"):
        Copa(keep=0)
