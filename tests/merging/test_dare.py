from __future__ import annotations

import numpy as np
import pytest

from plait.merging.dare import Dare
from plait.merging.pool import Pool
from plait.method import MethodError

ONE = {"task_arithmetic": {"scale": 1.0}}


def ramp(models: int = 1, count: int = 200_000) -> Pool:
    delta = np.linspace(1, 2, count)
    return Pool({f"m{i}": {"w": delta} for i in range(models)}, {"w": np.zeros(count)})


def test_it_is_unbiased_and_drops_at_the_rate() -> None:
    wanted = ramp().models["m0"]["w"]
    for drop in (0.3, 0.9):
        found = Dare(drop=drop, method=ONE, seed=4).merge(ramp()).tensors["w"]
        kept = np.count_nonzero(found) / found.size
        assert abs(kept - (1 - drop)) < 4 * np.sqrt(drop * (1 - drop) / found.size)
        ratio = (found / wanted).mean()
        assert abs(ratio - 1) < 4 * np.sqrt(drop / (1 - drop) / found.size)
        entries = found[found != 0] / wanted[found != 0]
        np.testing.assert_allclose(entries, 1 / (1 - drop), rtol=2e-4)


def test_every_entry_is_right_on_average_over_seeds() -> None:
    pool = ramp(count=50)
    merged = [Dare(drop=0.5, method=ONE, seed=s).merge(pool).tensors["w"] for s in range(2000)]
    off = np.mean(merged, axis=0) / pool.models["m0"]["w"] - 1
    assert np.abs(off).max() < 5 / np.sqrt(2000)


def test_models_tensors_and_seeds_have_masks_of_their_own() -> None:
    zeros = np.zeros(4000)
    ones = {"v": zeros + 1, "w": zeros + 1}
    pool = Pool({"a": ones}, {"v": zeros, "w": zeros})
    renamed = Pool({"b": ones}, {"v": zeros, "w": zeros})
    first = Dare(drop=0.5, method=ONE).merge(pool).tensors
    masks = [
        first["v"],
        first["w"],
        Dare(drop=0.5, method=ONE).merge(renamed).tensors["v"],
        Dare(drop=0.5, method=ONE, seed=1).merge(pool).tensors["v"],
    ]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert 0.4 < np.mean((one != 0) == (other != 0)) < 0.6


def test_it_stands_before_ties() -> None:
    pool = ramp(2, 1000)
    thinned = Dare(drop=0.5, method={"ties": {"keep": 1.0, "scale": 1.0}}).merge(pool).tensors["w"]
    alone = [
        Dare(drop=0.5, method=ONE).merge(Pool({n: pool.models[n]}, pool.base)).tensors["w"]
        for n in pool.names
    ]
    count = np.sum([one != 0 for one in alone], axis=0)
    np.testing.assert_allclose(thinned, np.sum(alone, axis=0) / np.maximum(count, 1))


def test_what_has_no_task_vectors_is_refused() -> None:
    with pytest.raises(MethodError, match="dare works on task vectors, and average merges without"):
        Dare(method="average").merge(ramp())
    with pytest.raises(ValueError, match="from 0 to below 1"):
        Dare(drop=1.0)
