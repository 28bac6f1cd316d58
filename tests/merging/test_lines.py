from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from merging_toys import SHAPES, flat, merged_delta

from plait.merging.lines import Lines
from plait.merging.pool import Pool
from plait.merging.ties import Ties
from plait.method import MethodError

NAMES = ["embed.weight", "blocks.0.w", "blocks.1.w", "blocks.2.w", "norm.weight"]


def deep(models: int = 2) -> Pool:
    draw = np.random.default_rng(1)
    base = {name: draw.normal(size=4) for name in NAMES}
    states = {
        f"m{i}": {name: value + draw.normal(size=4) for name, value in base.items()}
        for i in range(models)
    }
    return Pool(states, base)


def test_blocks_rise_evenly_and_the_rest_stays_at_the_start() -> None:
    pool = deep()
    merged = Lines(start=0.2, rise=0.6).merge(pool).tensors
    for name, factor in zip(NAMES, [0.2, 0.2, 0.5, 0.8, 0.2], strict=True):
        total = sum(state[name] - pool.base[name] for state in pool.models.values())
        np.testing.assert_allclose(merged[name], pool.base[name] + factor * total, atol=1e-13)


def test_on_task_arithmetic_the_start_is_one_over_the_models_at_any_scale() -> None:
    pool = deep(4)
    free, fixed = (
        Lines(rise=0.0, method=method).merge(pool).tensors
        for method in ("task_arithmetic", {"task_arithmetic": {"scale": 0.3}})
    )
    for name in NAMES:
        mean = np.mean([state[name] for state in pool.models.values()], axis=0)
        np.testing.assert_allclose(free[name], mean, atol=1e-13)
        np.testing.assert_allclose(fixed[name], mean, atol=1e-13)


@pytest.mark.parametrize("block", [1 << 18, 8])
def test_on_ties_the_start_is_from_the_norms_of_what_is_trimmed(pool: Pool, block: int) -> None:
    with patch("plait.merging.engine.BLOCK", block):
        found = Lines(method={"ties": {"keep": 0.3}}, rise=0.4).merge(pool, workers=2).tensors
    ties = Ties(keep=0.3, scale=1.0).merge(pool).tensors
    tau = flat(pool)
    least = np.sort(np.abs(tau), axis=1)[:, tau.shape[1] - int(tau.shape[1] * 0.3) - 1]
    trimmed = tau * (np.abs(tau) >= least[:, None])
    start = np.abs(trimmed.sum(0)).sum() / np.abs(merged_delta(pool, ties)).sum() / 3
    for name in SHAPES:
        factor = start + 0.4 * name.startswith("a.1")  # a.0 is the first block, a.1 the last
        wanted = pool.base[name] + factor * (ties[name] - pool.base[name])
        np.testing.assert_allclose(found[name], wanted, atol=1e-12)


def test_a_single_model_is_scaled_and_a_single_block_is_the_last() -> None:
    pool = Pool({"a": {"h.0.w": np.ones(2)}}, {"h.0.w": np.zeros(2)})
    merged = Lines(start=0.3, rise=0.7).merge(pool).tensors["h.0.w"]
    np.testing.assert_allclose(merged, 1)
    still = Pool({"a": pool.base}, pool.base)
    np.testing.assert_array_equal(Lines().merge(still).tensors["h.0.w"], 0)


def test_what_has_no_task_vectors_is_refused(pool: Pool) -> None:
    with pytest.raises(MethodError, match="lines works on task vectors, and average merges"):
        Lines(method="average").merge(pool)
