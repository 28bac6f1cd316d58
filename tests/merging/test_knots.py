from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from merging_toys import SHAPES, deltas

from plait.merging.dare import Dare
from plait.merging.knots import Knots
from plait.merging.pool import Pool

MATRICES = ("a.0.weight", "a.1.weight")


def by_the_code(pool: Pool, keep: float, names: tuple[str, ...] = MATRICES) -> dict:
    """Split the right half of the joint SVD, then TIES over all of it, as the authors order it."""
    count, left, parts = len(pool), {}, {}
    for name in names:
        stack = deltas(pool, name)
        u, s, vt = np.linalg.svd(np.concatenate(stack, axis=1), full_matrices=False)
        there = s > 1e-5
        left[name] = u[:, there]
        parts[name] = np.split(np.diag(s[there]) @ vt[there], count, axis=1)
    others = [name for name in SHAPES if name not in names and name in pool.base]
    for name in others:
        left[name], parts[name] = np.eye(1), [d.reshape(1, -1) for d in deltas(pool, name)]
    for number in range(count):
        flat = np.abs(np.concatenate([part[number].ravel() for part in parts.values()]))
        least = np.sort(flat)[max(len(flat) - int(len(flat) * keep) - 1, 0)]
        for part in parts.values():
            part[number] = np.where(np.abs(part[number]) >= least, part[number], 0)
    found = {}
    for name, part in parts.items():
        stack = np.stack(part)
        agree = stack * np.sign(stack.sum(0)) > 0
        found[name] = left[name] @ ((stack * agree).sum(0) / np.maximum(agree.sum(0), 1))
    return found


@pytest.mark.parametrize("keep", [0.2, 0.6, 1.0])
def test_it_is_the_authors_procedure(pool: Pool, keep: float) -> None:
    wanted = by_the_code(pool, keep)
    with patch("plait.merging.engine.BLOCK", 8):
        merged = Knots(keep=keep, scale=0.5).merge(pool).tensors
    for name, shape in SHAPES.items():
        found = merged[name] - pool.base[name]
        np.testing.assert_allclose(found, 0.5 * wanted[name].reshape(shape), atol=1e-10)


def lora(seed: int, models: int = 3) -> Pool:
    """Models of rank 2 at one of two layers, as float32 products."""
    draw = np.random.default_rng(seed)
    base = {"q": np.zeros((20, 16), np.float32), "k": np.ones((20, 16), np.float32)}
    made = {
        f"m{i}": {
            "q": (draw.normal(size=(20, 2)) @ draw.normal(size=(2, 16))).astype(np.float32),
            "k": base["k"],
        }
        for i in range(models)
    }
    return Pool(made, base)


def test_directions_and_layers_that_no_model_reaches_have_no_part_in_the_trim() -> None:
    pool = lora(0)
    wide = Pool({n: dict(m) for n, m in pool.models.items()}, dict(pool.base))
    found = Knots(keep=0.3, scale=1.0).merge(wide).tensors
    alone = Pool({n: {"q": m["q"]} for n, m in pool.models.items()}, {"q": pool.base["q"]})
    wanted = by_the_code(alone, 0.3, ("q",))
    np.testing.assert_allclose(found["q"], wanted["q"], atol=1e-4)
    np.testing.assert_array_equal(found["k"], pool.base["k"])
    assert np.linalg.matrix_rank(found["q"]) <= 6


def test_where_all_agree_it_is_the_mean_and_one_model_comes_back(pool: Pool) -> None:
    same = Pool(dict.fromkeys("abc", pool.models["x"]), pool.base)
    alone = Pool({"x": pool.models["x"]}, pool.base)
    for some in (same, alone):
        merged = Knots(keep=1.0, scale=1.0).merge(some).tensors
        for name in SHAPES:
            np.testing.assert_allclose(merged[name], pool.models["x"][name], atol=1e-12)


def test_dropping_takes_entries_in_the_basis_and_is_seeded(pool: Pool) -> None:
    settings = {"keep": 1.0, "scale": 1.0, "drop": 0.5}
    one = Knots(**settings).merge(pool).tensors  # type: ignore[arg-type]
    again = Knots(**settings).merge(pool).tensors  # type: ignore[arg-type]
    other = Knots(**settings, seed=1).merge(pool).tensors  # type: ignore[arg-type]
    np.testing.assert_array_equal(one["a.0.weight"], again["a.0.weight"])
    assert (one["a.0.weight"] != other["a.0.weight"]).any()
    inside = Dare(drop=0.5, method={"ties": {"keep": 1.0, "scale": 1.0}}).merge(pool).tensors
    assert not np.allclose(one["a.0.weight"], inside["a.0.weight"])
    np.testing.assert_allclose(one["a.0.bias"], inside["a.0.bias"])


def test_shares_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="keep"):
        Knots(keep=0.0)
    with pytest.raises(ValueError, match="drop"):
        Knots(drop=1.0)
