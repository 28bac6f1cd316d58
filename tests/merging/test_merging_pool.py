from __future__ import annotations

import numpy as np
import pytest

from plait.merging.average import Average
from plait.merging.pool import Pool, PoolError


def test_all_problems_are_listed_at_once() -> None:
    base = {"w": np.zeros((2, 2)), "b": np.zeros(2), "n": np.zeros(1, np.int64)}
    models = {
        "a": {"w": np.zeros((2, 3)), "b": np.zeros(2), "n": np.zeros(1, np.int64)},
        "b": {"w": np.zeros((2, 2)), "b": np.zeros(2, np.float32), "extra": np.zeros(1)},
        "c": {"w": np.full((2, 2), np.nan), "b": np.zeros(2), "n": np.zeros(1, np.int64)},
    }
    with pytest.raises(PoolError) as error:
        Pool(models, base)
    message = str(error.value)
    assert "'w' is [2, 3] in 'a' and [2, 2] in the base" in message
    assert "'b' is float32 in 'b' and float64 in the base" in message
    assert "'b' lacks 'n' of the base" in message
    assert "'b' has 'extra' that the base lacks" in message
    assert "'w' of 'c' has NaN" in message


def test_infinite_values_of_the_base_are_refused() -> None:
    with pytest.raises(PoolError, match="'w' of the base has NaN or infinite"):
        Pool({"a": {"w": np.zeros(1)}}, {"w": np.array([np.inf])})


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(PoolError, match="at least one model"):
        Pool({})


def test_tied_tensors_merge_once_and_stay_tied() -> None:
    tied = np.array([1.0, 2.0])
    pool = Pool({"a": {"w": tied, "v": tied}}, {"w": tied + 1, "v": tied + 1})
    assert [site.name for site in pool.sites] == ["w", "v"]
    base = tied * 3
    pool = Pool({"a": {"w": tied, "v": tied}}, {"w": base, "v": base})
    assert [(site.name, site.aliases) for site in pool.sites] == [("w", ("v",))]
    merged = Average().merge(pool).tensors
    assert merged["v"].tolist() == [1.0, 2.0]
    assert np.shares_memory(merged["v"], merged["w"])


def test_what_only_some_models_tie_is_merged_apart() -> None:
    one = np.zeros(2)
    pool = Pool({"a": {"w": one, "v": one}, "b": {"w": np.ones(2), "v": np.full(2, 3.0)}})
    assert Average().merge(pool).tensors["v"].tolist() == [1.5, 1.5]
