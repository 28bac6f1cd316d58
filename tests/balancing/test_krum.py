from __future__ import annotations

import pytest
import torch
from gradients import jacobian, signals

from plait.balancing.krum import Krum


def literal(rows: torch.Tensor, outliers: int, keep: int) -> list[int]:
    scores = []
    for i in range(len(rows)):
        apart = sorted(
            float((rows[i] - rows[j]).square().sum()) for j in range(len(rows)) if j != i
        )
        scores.append(sum(apart[: len(rows) - outliers - 2]))
    return sorted(sorted(range(len(rows)), key=lambda i: scores[i])[:keep])


@pytest.mark.parametrize(("outliers", "keep"), [(0, 1), (1, 1), (2, 3), (3, 2)])
def test_equals_the_papers_definition(outliers: int, keep: int):
    for seed in range(20):
        rows = jacobian(7, 4, seed)
        weights = Krum(outliers=outliers, keep=keep)(signals(rows))
        assert weights.nonzero()[:, 0].tolist() == literal(rows, outliers, keep)
        assert weights[weights > 0].tolist() == [1 / keep] * keep


def test_a_far_outlier_is_never_picked():
    for seed in range(20):
        rows = jacobian(5, 4, seed)
        rows[seed % 5] += 1e3
        assert Krum(outliers=1, keep=3)(signals(rows))[seed % 5] == 0


def test_keeping_all_is_the_mean():
    assert Krum(outliers=0, keep=9)(signals(jacobian(4, 3, 0))).tolist() == [0.25] * 4


def test_few_tasks_withstand_fewer_outliers():
    assert Krum(outliers=5)(signals(jacobian(1, 3, 0))).tolist() == [1.0]
    assert Krum(outliers=5)(signals(jacobian(2, 3, 0))).tolist() == [1.0, 0.0]
    rows = torch.tensor([[0.0, 1.0], [0.1, 1.0], [9.0, 9.0]], dtype=torch.float64)
    assert Krum(outliers=5)(signals(rows))[2] == 0


def test_settings_are_checked():
    with pytest.raises(ValueError, match="outliers must be 0 or more"):
        Krum(outliers=-1)
