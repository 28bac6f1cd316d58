from __future__ import annotations

import numpy as np

from plait.merging.draws import CHUNK, Draws


def test_any_run_is_the_same_as_in_the_whole() -> None:
    draws = Draws(seed=3, words=("m", "w"))
    whole = draws.integers(0, 2 * CHUNK + 100)
    for start, stop in ((0, 1), (5, 70_000), (CHUNK, CHUNK), (CHUNK - 1, CHUNK + 1)):
        np.testing.assert_array_equal(draws.integers(start, stop), whole[start:stop])


def test_numbers_are_uniform_and_unrelated() -> None:
    one = Draws(seed=0, words=("m", "w")).integers(0, 4 * CHUNK).astype(float)
    assert abs(one.mean() - 32767.5) < 4 * 65536 / np.sqrt(12 * one.size)
    counts = np.bincount((one // 4096).astype(int))
    assert counts.min() > 0.97 * one.size / 16
    for seed, words in ((1, ("m", "w")), (0, ("n", "w")), (0, ("m", "v")), (0, ("mw", ""))):
        other = Draws(seed=seed, words=words).integers(0, one.size).astype(float)
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.01
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(one[:CHUNK], one[CHUNK : 2 * CHUNK])[0, 1]) < 0.02
