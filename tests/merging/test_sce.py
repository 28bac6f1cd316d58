from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from merging_toys import SHAPES, deltas

from plait.merging.pool import Pool
from plait.merging.sce import Sce


def by_the_paper(tau: np.ndarray, keep: float, *, hide: bool) -> np.ndarray:
    """Select, calculate and erase on the task vectors [M, *s] of a tensor."""
    flat = tau.reshape(len(tau), -1).copy()
    variance = ((flat - flat.mean(0)) ** 2).mean(0)
    kept = np.argsort(-variance)[: max(int(np.count_nonzero(variance) * keep), 1)]
    mask = np.isin(np.arange(flat.shape[1]), kept)
    energy = (flat[:, mask] ** 2).sum(1)
    eta = energy / energy.sum()
    if hide:
        flat[:, ~mask] = 0
    merged = np.zeros(flat.shape[1])
    for place in range(flat.shape[1]):
        sign = 1 if flat[:, place].sum() >= 0 else -1
        agree = np.sign(flat[:, place]) == sign
        if (eta * agree).sum():
            merged[place] = (eta * agree * flat[:, place]).sum() / (eta * agree).sum()
    return merged.reshape(tau.shape[1:])


@pytest.mark.parametrize("keep", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("select", ["weights", "deltas"])
@pytest.mark.parametrize("block", [1 << 18, 8])
def test_it_is_the_papers_formula(pool: Pool, keep: float, select: str, block: int) -> None:
    with patch("plait.merging.engine.BLOCK", block):
        merged = Sce(keep=keep, select=select).merge(pool, workers=2).tensors  # type: ignore[arg-type]
    for name in SHAPES:
        wanted = by_the_paper(deltas(pool, name), keep, hide=select == "deltas")
        np.testing.assert_allclose(merged[name], pool.base[name] + wanted, atol=1e-12)


def test_the_selection_weighs_models_and_hides_nothing(pool: Pool) -> None:
    weighed = Sce(keep=0.1).merge(pool).tensors["a.0.weight"]
    hidden = Sce(keep=0.1, select="deltas").merge(pool).tensors["a.0.weight"]
    base = pool.base["a.0.weight"]
    assert np.count_nonzero(weighed - base) == base.size
    assert np.count_nonzero(hidden - base) == int(base.size * 0.1)


def test_what_is_equal_in_all_models_does_not_count_in_the_share() -> None:
    same = np.full(90, 2.0)
    one = np.concatenate([same, np.arange(1.0, 11)])
    two = np.concatenate([same, np.arange(1.0, 11) * 3])
    pool = Pool({"a": {"w": one}, "b": {"w": two}}, {"w": np.zeros(100)})
    hidden = Sce(keep=0.2, select="deltas").merge(pool).tensors["w"]
    np.testing.assert_array_equal(np.flatnonzero(hidden), [98, 99])


def test_the_votes_are_equal_whatever_the_weights() -> None:
    base = {"w": np.zeros(2)}
    strong, weak = np.array([-1.0, 9.0]), np.array([2.0, 1.0])
    merged = Sce(keep=1.0).merge(Pool({"a": {"w": strong}, "b": {"w": weak}}, base)).tensors["w"]
    energy = np.array([82.0, 5.0])
    np.testing.assert_allclose(merged, [2.0, (energy @ [9.0, 1.0]) / energy.sum()])


def test_models_without_variance_weigh_the_same() -> None:
    delta = np.array([1.0, -2.0, 0.0])
    for names in ("a", "abc"):
        pool = Pool({name: {"w": delta} for name in names}, {"w": np.zeros(3)})
        np.testing.assert_allclose(Sce(keep=0.5).merge(pool).tensors["w"], delta)


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="keep is a share above 0 and at most 1, not 0"):
        Sce(keep=0.0)
