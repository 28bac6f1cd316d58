from __future__ import annotations

import numpy as np
import pytest
from merging_toys import SHAPES

from plait.merging.nearswap import Nearswap
from plait.merging.pool import Pool


def one(pool: Pool) -> Pool:
    return Pool({"x": pool.models["x"]}, pool.base)


def test_near_weights_are_swapped_and_far_ones_moved_by_a_step(pool: Pool) -> None:
    merged = Nearswap(t=0.05).merge(one(pool)).tensors
    for name in SHAPES:
        base, model = pool.base[name], pool.models["x"][name]
        weight = np.clip(0.05 / np.maximum(np.abs(base - model), 1e-6), 0, 1)
        wanted = weight * model + (1 - weight) * base
        np.testing.assert_allclose(merged[name], wanted, atol=1e-12)


def test_no_step_is_the_base_and_a_long_one_the_model(pool: Pool) -> None:
    for t, state in ((0.0, pool.base), (100.0, pool.models["x"])):
        merged = Nearswap(t=t).merge(one(pool)).tensors
        for name in SHAPES:
            np.testing.assert_allclose(merged[name], state[name], atol=1e-15)


def test_other_numbers_of_models_and_steps_are_refused(pool: Pool) -> None:
    with pytest.raises(ValueError, match="nearswap merges one model beside any base, and there"):
        Nearswap().merge(pool)
    with pytest.raises(ValueError, match="t is a step of 0 or more, not -1"):
        Nearswap(t=-1)
