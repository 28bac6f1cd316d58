from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from merging_toys import SHAPES, deltas

from plait.merging.breadcrumbs import Breadcrumbs
from plait.merging.breadcrumbs_ties import BreadcrumbsTies
from plait.merging.pool import Pool


def crumbs(delta: np.ndarray, keep: float, outliers: float) -> np.ndarray:
    """The middle of every row, by sorting one row after another."""
    if not delta.shape:
        return delta
    found = np.zeros_like(delta)
    for place in np.ndindex(delta.shape[:-1]):
        row = delta[place]
        falling = np.argsort(-np.abs(row))[int(row.size * outliers) :]
        kept = falling[: max(int(row.size * keep), 1)]
        found[place][kept] = row[kept]
    return found


@pytest.mark.parametrize(("keep", "outliers"), [(0.15, 0.006), (0.4, 0.25), (1.0, 0.2), (0.3, 0)])
@pytest.mark.parametrize("block", [1 << 18, 8])
def test_it_is_the_papers_formula(pool: Pool, keep: float, outliers: float, block: int) -> None:
    with patch("plait.merging.engine.BLOCK", block):
        merged = Breadcrumbs(keep=keep, outliers=outliers, scale=0.7).merge(pool).tensors
    for name in SHAPES:
        middle = sum(crumbs(delta, keep, outliers) for delta in deltas(pool, name))
        np.testing.assert_allclose(merged[name], pool.base[name] + 0.7 * middle, atol=1e-12)


def test_exactly_so_many_are_kept_however_many_are_equally_large() -> None:
    ones = {"w": np.ones((3, 100), np.float32)}
    pool = Pool({"a": ones}, {"w": np.zeros((3, 100), np.float32)})
    merged = Breadcrumbs(keep=0.2, outliers=0.05, scale=1.0).merge(pool).tensors["w"]
    assert np.count_nonzero(merged, axis=1).tolist() == [20, 20, 20]


def test_short_rows_and_small_tensors_do_not_vanish() -> None:
    state = {"w": np.array([[1.0, 5.0, -7.0, 2.0]]), "number": np.asarray(3.0)}
    pool = Pool({"a": state}, {name: np.zeros_like(value) for name, value in state.items()})
    merged = Breadcrumbs(scale=1.0).merge(pool).tensors
    np.testing.assert_array_equal(merged["w"], [[0, 0, -7, 0]])
    assert merged["number"] == 3


def test_without_an_outlier_to_drop_the_largest_stay() -> None:
    row = np.arange(1.0, 11)
    pool = Pool({"a": {"w": row}}, {"w": np.zeros(10)})
    merged = Breadcrumbs(keep=0.3, outliers=0.05, scale=1.0).merge(pool).tensors["w"]
    np.testing.assert_array_equal(np.flatnonzero(merged), [7, 8, 9])  # ⌊10 · 0.05⌋ = 0


def test_with_an_election_only_what_agrees_is_added_up(pool: Pool) -> None:
    weights = {"x": 0.5, "y": 1.0, "z": 2.0}
    method = BreadcrumbsTies(keep=0.5, outliers=0.1, weights=weights, scale=0.6)
    merged = method.merge(pool).tensors
    for name in SHAPES:
        thin = np.stack([crumbs(delta, 0.5, 0.1) for delta in deltas(pool, name)])
        for place in np.ndindex(thin.shape[1:]):
            sizes = [w * thin[(m, *place)] for m, w in enumerate(weights.values())]
            sign = 1 if sum(sizes) >= 0 else -1
            wanted = 0.6 * sum(size for size in sizes if size * sign > 0)
            found = merged[name][place] - pool.base[name][place]
            np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("method", [Breadcrumbs, BreadcrumbsTies])
def test_shares_that_are_none_are_refused(method: type) -> None:
    with pytest.raises(ValueError, match="keep is a share above 0 and at most 1, not 15"):
        method(keep=15)
    with pytest.raises(ValueError, match="outliers is a share from 0 to below 1, not 1"):
        method(outliers=1.0)
