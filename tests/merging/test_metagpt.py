from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from merging_toys import flat, merged_delta

from plait.merging.metagpt import Metagpt
from plait.merging.pool import Pool


@pytest.mark.parametrize("block", [1 << 18, 8])
def test_one_coefficient_for_each_model_from_whole_norms(pool: Pool, block: int) -> None:
    with patch("plait.merging.engine.BLOCK", block):
        merged = Metagpt().merge(pool, workers=2)
    tau = flat(pool)
    weights = (tau**2).sum(1) / (tau**2).sum()
    np.testing.assert_allclose(merged_delta(pool, merged.tensors), weights @ tau, atol=1e-12)


def test_for_orthogonal_task_vectors_no_other_coefficients_cost_less() -> None:
    draw = np.random.default_rng(0)
    axes, _ = np.linalg.qr(draw.normal(size=(9, 3)))
    tau = axes.T * np.array([[1.0], [2.0], [0.5]])
    pool = Pool({f"m{i}": {"w": row} for i, row in enumerate(tau)}, {"w": np.zeros(9)})
    found = Metagpt().merge(pool).tensors["w"]

    def cost(merged: np.ndarray) -> float:
        return sum(float((t @ t) * ((merged - t) @ (merged - t))) for t in tau)

    for _ in range(50):
        assert cost(found) < cost(found + 0.01 * draw.normal(size=3) @ tau)


def test_models_that_moved_equally_far_are_averaged() -> None:
    tau = np.array([[3.0, 4.0], [0.0, -5.0]])
    pool = Pool({f"m{i}": {"w": row} for i, row in enumerate(tau)}, {"w": np.zeros(2)})
    np.testing.assert_allclose(Metagpt().merge(pool).tensors["w"], tau.mean(0))
