from __future__ import annotations

import numpy as np
import pytest
from merging_toys import SHAPES, deltas

from plait.merging.average import Average
from plait.merging.pool import Pool
from plait.merging.star import Star

MATRICES = ("a.0.weight", "a.1.weight")


def cut(matrix: np.ndarray, share: float) -> np.ndarray:
    """Singular triplets added one by one until their values reach the share, then rescaled."""
    u, s, vt = np.linalg.svd(matrix)
    found, reached, place = np.zeros_like(matrix), 0.0, 0
    while reached < share * sum(s):
        found += s[place] * np.outer(u[:, place], vt[place])
        reached += s[place]
        place += 1
    return found * sum(s) / reached


@pytest.mark.parametrize("keep", [0.1, 0.4, 0.75])
def test_it_is_the_papers_formula(pool: Pool, keep: float) -> None:
    merged = Star(keep=keep).merge(pool).tensors
    for name in SHAPES:
        stack = deltas(pool, name)
        if name in MATRICES:
            stack = np.stack([cut(delta, keep) for delta in stack])
        np.testing.assert_allclose(merged[name] - pool.base[name], stack.mean(0), atol=1e-12)


def test_the_nuclear_norm_of_one_model_stays(pool: Pool) -> None:
    alone = Pool({"x": pool.models["x"]}, pool.base)
    merged = Star().merge(alone).tensors
    for name in MATRICES:
        own, found = deltas(alone, name)[0], merged[name] - pool.base[name]
        assert np.linalg.matrix_rank(found, tol=1e-9) < min(own.shape)
        np.testing.assert_allclose(np.linalg.norm(found, "nuc"), np.linalg.norm(own, "nuc"))


def test_keeping_all_is_the_average_and_rank_one_is_untouched(pool: Pool) -> None:
    whole = Star(keep=1.0).merge(pool).tensors
    wanted = Average().merge(pool).tensors
    for name in SHAPES:
        np.testing.assert_allclose(whole[name], wanted[name], atol=1e-14)
    line = np.outer(np.arange(1.0, 5.0), [1.0, -2.0, 0.5])
    one = Pool({"a": {"w": line}}, {"w": np.zeros_like(line)})
    np.testing.assert_allclose(Star(keep=0.2).merge(one).tensors["w"], line, atol=1e-12)


def test_a_share_of_nothing_is_refused() -> None:
    for keep in (0.0, 1.5):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            Star(keep=keep)
