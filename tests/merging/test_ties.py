from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from merging_toys import SHAPES, flat, merged_delta

from plait.merging.pool import Pool
from plait.merging.ties import Ties


def by_the_paper(tau: np.ndarray, keep: float, reduce: str = "mean") -> np.ndarray:
    """Trim, elect, disjoint mean on whole flat vectors [M, P], entry by entry."""
    count = tau.shape[1]
    trimmed = []
    for row in tau:
        least = np.sort(np.abs(row))[count - int(count * keep) - 1]
        trimmed.append([v if abs(v) >= least else 0.0 for v in row])
    totals = [sum(column) for column in zip(*trimmed, strict=True)]
    majority = np.sign(sum(np.sign(t) for t in totals))
    merged = []
    for column, total in zip(zip(*trimmed, strict=True), totals, strict=True):
        sign = np.sign(total) if total else majority
        agreeing = [v for v in column if np.sign(v) == sign and v]
        share = len(agreeing) if reduce == "mean" else 1
        merged.append(sum(agreeing) / max(share, 1))
    return np.array(merged)


@pytest.mark.parametrize("keep", [0.05, 0.2, 0.7])
@pytest.mark.parametrize("block", [1 << 18, 8])
def test_it_is_the_papers_formula(pool: Pool, keep: float, block: int) -> None:
    with patch("plait.merging.engine.BLOCK", block):
        merged = Ties(keep=keep, scale=0.7).merge(pool, workers=2)
    np.testing.assert_allclose(
        merged_delta(pool, merged.tensors), 0.7 * by_the_paper(flat(pool), keep), atol=1e-12
    )


def test_disjoint_sum_and_trim_by_tensor(pool: Pool) -> None:
    summed = Ties(reduce="sum").merge(pool).tensors
    wanted = by_the_paper(flat(pool), 0.2, "sum")
    np.testing.assert_allclose(merged_delta(pool, summed), wanted, atol=1e-12)
    alone = Ties(per="tensor", keep=0.5).merge(pool).tensors
    for name in ("a.0.weight", "a.0.bias"):
        part = Pool({m: {name: s[name]} for m, s in pool.models.items()}, {name: pool.base[name]})
        own = Ties(keep=0.5).merge(part).tensors  # its majority is the tensor's, unasked here
        np.testing.assert_array_equal(alone[name], own[name])


def test_the_trim_is_over_the_whole_model_not_over_tensors() -> None:
    base = {"large": np.zeros(8), "small": np.zeros(8)}
    state = {"large": np.arange(8) + 100.0, "small": np.arange(8) + 1.0}
    merged = Ties(keep=0.25, scale=1.0).merge(Pool({"a": state}, base)).tensors
    np.testing.assert_array_equal(np.flatnonzero(merged["large"]), [3, 4, 5, 6, 7])  # ⌊16/4⌋ + 1
    assert not merged["small"].any()


def test_the_larger_side_wins_whole_not_the_mean_of_both() -> None:
    delta = np.array([1.0, -2.0, 0.5])
    pool = Pool({"a": {"w": delta}, "b": {"w": -2 * delta}}, {"w": np.zeros(3)})
    np.testing.assert_allclose(Ties(keep=1.0, scale=1.0).merge(pool).tensors["w"], -2 * delta)


def test_an_exact_tie_takes_the_majority_of_the_whole_model() -> None:
    base = {"w": np.zeros(2), "v": np.zeros(3)}
    one = {"w": np.array([4.0, -6.0]), "v": np.array([-1.0, -1.0, 1.0])}
    two = {"w": np.array([-4.0, 6.0]), "v": np.array([-1.0, -1.0, 1.0])}
    merged = Ties(keep=1.0, scale=1.0).merge(Pool({"a": one, "b": two}, base)).tensors
    np.testing.assert_array_equal(merged["w"], [-4.0, -6.0])


def test_float32_thresholds_are_exact() -> None:
    draw = np.random.default_rng(1)
    for spread in (1.0, 1e-6, 1e30):
        delta = (draw.standard_cauchy(5000) * spread).astype(np.float32)
        delta[100:200] = delta[100]
        pool = Pool({"a": {"w": delta}}, {"w": np.zeros(5000, np.float32)})
        merged = Ties(keep=0.3, scale=1.0).merge(pool).tensors["w"]
        least = np.sort(np.abs(delta))[5000 - 1500 - 1]
        np.testing.assert_array_equal(merged, np.where(np.abs(delta) >= least, delta, 0))


def test_a_share_that_is_none_is_refused() -> None:
    for keep in (0.0, 20.0, -1.0):
        with pytest.raises(ValueError, match="keep is a share above 0 and at most 1"):
            Ties(keep=keep)


def test_all_sites_are_there(pool: Pool) -> None:
    assert list(Ties().merge(pool).tensors) == [*SHAPES, "steps"]
