from __future__ import annotations

import numpy as np
import pytest

from plait.merging.della import Della
from plait.merging.pool import Pool

ROWS, WIDTH = 20_000, 5


def ramps(models: int = 1) -> Pool:
    """Every row holds 1, …, 5 in an order of its own, signs at random."""
    draw = np.random.default_rng(0)
    rows = draw.permuted(np.tile(np.arange(1.0, WIDTH + 1), (ROWS, 1)), axis=1)
    rows *= draw.choice([-1, 1], rows.shape)
    return Pool({f"m{i}": {"w": rows} for i in range(models)}, {"w": np.zeros((ROWS, WIDTH))})


def test_the_share_kept_rises_evenly_with_the_rank_in_the_row() -> None:
    pool = ramps()
    merged = Della(keep=0.5, window=0.8, scale=1.0).merge(pool).tensors["w"]
    size = np.abs(pool.models["m0"]["w"])
    for rank in range(1, WIDTH + 1):
        p = 0.1 + 0.8 * (rank - 1) / (WIDTH - 1)
        found = merged[size == rank]
        assert abs(np.mean(found != 0) - p) < 4 * np.sqrt(p * (1 - p) / ROWS)
        np.testing.assert_allclose(np.abs(found[found != 0]), rank / p, rtol=1e-4)


def test_every_entry_is_right_on_average_over_seeds() -> None:
    delta = np.array([[0.5, -3.0, 2.0], [1.0, 1.5, -0.1]])
    pool = Pool({"a": {"w": delta}}, {"w": np.zeros((2, 3))})
    method = {"keep": 0.6, "window": 0.6, "scale": 1.0}
    merged = [Della(**method, seed=s).merge(pool).tensors["w"] for s in range(2000)]
    p = 0.3 + 0.6 * np.abs(delta).argsort(1).argsort(1) / 2
    error = 5 * np.sqrt((1 - p) / p / 2000)
    assert (np.abs(np.mean(merged, axis=0) / delta - 1) <= error + 1e-4).all()


def test_equal_magnitudes_have_ranks_of_their_own() -> None:
    pool = Pool({"a": {"w": np.ones((ROWS, WIDTH))}}, {"w": np.zeros((ROWS, WIDTH))})
    merged = Della(keep=0.5, window=0.8, scale=1.0).merge(pool).tensors["w"]
    share = np.mean(merged != 0, axis=0)
    np.testing.assert_allclose(share, [0.1, 0.3, 0.5, 0.7, 0.9], atol=0.02)


def test_a_vector_is_one_row_and_a_row_of_one_entry_is_kept_at_the_rate() -> None:
    count = 20_000
    state = {"v": np.arange(1.0, count + 1), "thin": np.ones((count, 1))}
    pool = Pool({"a": state}, {name: np.zeros_like(value) for name, value in state.items()})
    merged = Della(keep=0.5, window=0.8, scale=1.0).merge(pool).tensors
    small, large = np.array_split(merged["v"] != 0, 2)
    assert abs(small.mean() - 0.3) < 0.02
    assert abs(large.mean() - 0.7) < 0.02
    assert abs(np.mean(merged["thin"] != 0) - 0.5) < 0.02


def test_it_averages_what_agrees_with_the_elected_sign() -> None:
    base = {"w": np.zeros(3)}
    models = {"a": {"w": np.array([4.0, -1.0, 2.0])}, "b": {"w": np.array([2.0, 5.0, -2.0])}}
    all_kept = {"keep": 1.0, "window": 0.0, "scale": 2.0}
    elected = Della(**all_kept).merge(Pool(models, base)).tensors["w"]
    np.testing.assert_allclose(elected, [6, 10, 4])  # what cancels takes the positive side
    plain = Della(**all_kept, elect=False).merge(Pool(models, base)).tensors["w"]
    np.testing.assert_allclose(plain, [6, 4, 0])


def test_models_and_seeds_have_masks_of_their_own() -> None:
    pool = ramps(2)
    one = {"keep": 0.5, "window": 0.0, "scale": 1.0}
    masks = [
        Della(**one).merge(Pool({name: pool.models[name]}, pool.base)).tensors["w"] != 0
        for name in pool.names
    ]
    again = Della(**one, seed=1).merge(Pool({"m0": pool.models["m0"]}, pool.base)).tensors["w"]
    for other in (masks[1], again != 0):
        assert 0.48 < np.mean(masks[0] == other) < 0.52


def test_probabilities_outside_0_and_1_are_refused() -> None:
    for settings in ({"keep": 0.05}, {"keep": 0.95}, {"window": -0.1}):
        with pytest.raises(ValueError, match="keep ± window/2 must lie above 0 and at most at 1"):
            Della(**settings)
