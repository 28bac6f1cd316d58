from __future__ import annotations

import pytest

from plait.comparing.watching import ROWS, Log, agreement, curves, series_of


def test_events_become_series_by_kind_and_task() -> None:
    events = [
        {"event": "step", "step": 0, "losses": {"a": 1.0}, "weights": {"a": 0.5}},
        {"event": "step", "step": 2, "losses": {"a": 0.5, "b": None}},
        {"event": "valid", "step": 2, "pass": 1, "losses": {"a": 0.7}},
        {"event": "conflict", "step": 2, "cosine": -0.1, "share": 0.5, "curvature": None},
        {"event": "gradients", "step": 3, "norms": {"a": 2.0, "b": 3.0}},
        {"event": "cosines", "step": 3, "looks": 1, "tasks": ["a", "b"], "above": [0.5]},
        {"event": "dropped", "step": 2, "task": "a"},
    ]
    assert series_of(events) == {
        "loss": {"a": {0: 1.0, 2: 0.5}, "b": {2: None}},
        "weight": {"a": {0: 0.5}},
        "valid": {"a": {2: 0.7}},
        "conflict": {"cosine": {2: -0.1}, "share": {2: 0.5}, "curvature": {2: None}},
        "norm": {"a": {3: 2.0}, "b": {3: 3.0}},
    }


def test_cosines_are_means_over_looks_of_the_pairs_that_met() -> None:
    events = [
        {
            "event": "cosines",
            "step": 5,
            "looks": 3,
            "tasks": ["a", "b", "c"],
            "above": [1, 0, None],
        },
        {"event": "cosines", "step": 9, "looks": 1, "tasks": ["b", "a"], "above": [-1.0]},
    ]
    found = agreement(Log("joint", "0", events))
    assert found is not None
    assert list(found.tasks) == ["a", "b", "c"]
    wanted = [[None, 0.5, 0.0], [0.5, None, None], [0.0, None, None]]
    for row, right in zip(found.cosines, wanted, strict=True):
        assert row == pytest.approx(right)
    assert agreement(Log("separate", "0", [])) is None


def test_losses_of_many_tasks_are_one_mean_and_their_weights_stay_apart() -> None:
    def kinds(tasks: int) -> dict[str, int]:
        values = {f"t{i}": 1.0 for i in range(tasks)}
        log = Log("joint", "0", [{"event": "step", "step": 1, "losses": values, "weights": values}])
        return {curve.kind: len(curve.series) for curve in curves(log)}

    assert kinds(12) == {"loss": 12, "weight": 12}
    assert kinds(139) == {"loss": 1, "weight": 139}
    assert kinds(ROWS + 1) == {"loss": 1, "weight": 1}
