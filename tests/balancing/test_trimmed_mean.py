from __future__ import annotations

import pytest
import torch
from gradients import jacobian
from torchjd import aggregation

from plait.balancing import trimmed_mean
from plait.balancing.base import Signals
from plait.balancing.trimmed_mean import TrimmedMean


def update(rows: torch.Tensor, trim: float) -> torch.Tensor:
    s = Signals.of({f"t{i}": 1.0 for i in range(len(rows))}, jacobian=rows)
    return TrimmedMean(trim=trim)(s)


@pytest.mark.parametrize(("tasks", "cut"), [(5, 1), (7, 3), (10, 2), (40, 12), (30, 3), (100, 29)])
def test_equals_torchjd(tasks: int, cut: int):
    rows = jacobian(tasks, 50, tasks)
    torch.testing.assert_close(
        update(rows, cut / tasks), aggregation.TrimmedMean(cut)(rows), rtol=1e-12, atol=1e-14
    )


def test_no_trim_is_the_mean_and_the_largest_the_median():
    rows = jacobian(7, 20, 0)
    torch.testing.assert_close(update(rows, 0.0), rows.mean(0))
    torch.testing.assert_close(update(rows, 0.49), rows.median(0).values)


def test_one_wild_task_is_ignored():
    rows = jacobian(6, 20, 0)
    high, low = rows.clone(), rows.clone()
    high[0], low[0] = torch.inf, 1e300
    assert torch.equal(update(high, 0.2), update(low, 0.2))
    assert update(high, 0.2).isfinite().all()


def test_few_tasks_lose_none():
    rows = jacobian(2, 5, 0)
    torch.testing.assert_close(update(rows, 0.4), rows.mean(0))


def test_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch):
    rows = jacobian(6, 101, 0)
    whole = update(rows, 0.2)
    monkeypatch.setattr(trimmed_mean, "CHUNK", 60)
    assert torch.equal(update(rows, 0.2), whole)


def test_trim_is_checked():
    for wrong in (-0.1, 0.5):
        with pytest.raises(ValueError, match="trim"):
            TrimmedMean(trim=wrong)
