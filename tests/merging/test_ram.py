from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from merging_toys import SHAPES, deltas, flat

from plait.merging.pool import Pool
from plait.merging.ram import Ram


def by_the_paper(tau: np.ndarray, counted: np.ndarray, r: float, most: float) -> np.ndarray:
    """Entries [M, n] one after another, the ratio of shared to unique from those counted."""
    active = np.abs(counted) > 0.1
    factors = []
    for model in range(len(tau)):
        alone = active[model] & (active.sum(0) == 1)
        shared = active[model] & (active.sum(0) > 1)
        factors.append(1 + r * min(shared.sum() / max(alone.sum(), 1e-5), most))
    merged = []
    for column in tau.T:
        movers = [m for m, value in enumerate(column) if abs(value) > 0.1]
        if len(movers) == 1:
            merged.append(factors[movers[0]] * column[movers[0]])
        else:
            merged.append(np.mean(column[movers]) if movers else 0.0)
    return np.array(merged)


@pytest.mark.parametrize("per", ["model", "tensor"])
@pytest.mark.parametrize(("r", "alpha"), [(0.0, 0.2), (0.1, 0.2), (0.5, 9.0)])
@pytest.mark.parametrize("block", [1 << 18, 8])
def test_it_is_the_papers_formula(pool: Pool, per: str, r: float, alpha: float, block: int) -> None:
    method = Ram(r=r, alpha=alpha, epsilon=0.1, per=per)  # type: ignore[arg-type]
    with patch("plait.merging.engine.BLOCK", block):
        merged = method.merge(pool, workers=2).tensors
    for name in SHAPES:
        tau = deltas(pool, name).reshape(3, -1)
        wanted = by_the_paper(tau, flat(pool) if per == "model" else tau, r, alpha)
        found = np.ravel(merged[name] - pool.base[name])
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_disjoint_changes_are_all_kept_whole() -> None:
    models = {f"m{i}": {"w": row} for i, row in enumerate(np.diag([1.0, -2.0, 3.0]))}
    merged = Ram().merge(Pool(models, {"w": np.zeros(3)})).tensors["w"]
    np.testing.assert_allclose(merged, [1, -2, 3])


def test_what_hardly_moved_has_not_changed() -> None:
    models = {"a": {"w": np.array([4.0, 1.0])}, "b": {"w": np.array([1e-6, 3.0])}}
    merged = Ram(r=0).merge(Pool(models, {"w": np.zeros(2)})).tensors["w"]
    np.testing.assert_allclose(merged, [4, 2])
    with pytest.raises(ValueError, match="r, alpha and epsilon of ram are 0 or more"):
        Ram(epsilon=-1.0)
