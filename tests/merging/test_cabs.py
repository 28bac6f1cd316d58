from __future__ import annotations

import numpy as np
import pytest
from merging_toys import SHAPES, deltas

from plait.merging.cabs import Cabs
from plait.merging.pool import Pool


def one_after_another(tau: np.ndarray, n: int, m: int) -> np.ndarray:
    """Each model's kept entries [M, *s], run by run."""
    flat = tau.reshape(len(tau), -1)
    kept = np.zeros_like(flat)
    for start in range(0, flat.shape[1], m):
        free = list(range(start, min(start + m, flat.shape[1])))
        count = int(np.ceil(n * len(free) / m))
        for model, row in enumerate(flat):
            best = sorted(free, key=lambda place: -abs(row[place]))[:count]
            kept[model, best] = row[best]
            free = [place for place in free if place not in best]
    return kept.reshape(tau.shape)


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 7), (3, 9), (64, 256)])
def test_it_is_the_papers_rule(pool: Pool, n: int, m: int) -> None:
    merged = Cabs(n=n, m=m, scale=0.9).merge(pool, workers=2).tensors
    for name in SHAPES:
        wanted = pool.base[name] + 0.9 * one_after_another(deltas(pool, name), n, m).sum(0)
        np.testing.assert_allclose(merged[name], wanted, atol=1e-12)


def test_masks_do_not_overlap_and_keep_n_of_every_m() -> None:
    draw = np.random.default_rng(0)
    tau = draw.normal(size=(4, 6, 128))  # four times 64 of 256: every place is taken once
    pool = Pool({f"m{i}": {"w": delta} for i, delta in enumerate(tau)}, {"w": np.zeros((6, 128))})
    merged = Cabs(scale=1.0).merge(pool).tensors["w"]
    owners = (merged == tau).reshape(4, 3, 256)
    assert (owners.sum(0) == 1).all()
    assert (owners.sum(2) == 64).all()


def test_the_first_model_has_its_choice() -> None:
    base = {"w": np.zeros(4)}
    one, two = {"w": np.array([4.0, 3.0, 1.0, 1.0])}, {"w": np.array([9.0, 8.0, 2.0, 1.0])}
    method = Cabs(n=2, m=4, scale=1.0)
    first = method.merge(Pool({"a": one, "b": two}, base)).tensors["w"]
    np.testing.assert_array_equal(first, [4, 3, 2, 1])
    other = method.merge(Pool({"b": two, "a": one}, base)).tensors["w"]
    np.testing.assert_array_equal(other, [9, 8, 1, 1])


def test_a_place_where_a_model_has_not_moved_stays_free() -> None:
    one, two = {"w": np.array([5.0, 0.0, 0.0, 0.0])}, {"w": np.array([1.0, 7.0, 6.0, 0.0])}
    merged = Cabs(n=2, m=4, scale=1.0).merge(Pool({"a": one, "b": two}, {"w": np.zeros(4)}))
    np.testing.assert_array_equal(merged.tensors["w"], [5, 7, 6, 0])


def test_masks_that_would_overlap_are_refused(pool: Pool) -> None:
    said = "3 models cannot keep 2 entries of every 4 without overlap; give an n of at most 1"
    with pytest.raises(ValueError, match=said):
        Cabs(n=2, m=4).merge(pool)
    with pytest.raises(ValueError, match="n:m keeps 1 to m entries of every m, not 5:4"):
        Cabs(n=5, m=4)
