"""How long the rest of a study takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from studies import plan

from plait.comparing import forecast
from plait.comparing.forecast import CELL, Forecast, expected
from plait.comparing.study import Study


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until it is moved."""
    now = [0.0]
    monkeypatch.setattr(forecast.time, "monotonic", lambda: now[0])
    return now


def test_what_is_left_shrinks_as_a_cell_runs_and_when_it_ends(clock: list[float]) -> None:
    left = Forecast({"a": 10.0, "b": 30.0})
    assert left.left() == 40
    left.begin("a")
    clock[0] = 4.0
    assert left.left() == pytest.approx(36)
    clock[0] = 10.0
    left.end("a")
    assert left.left() == pytest.approx(30)
    left.begin("b")
    left.end("b")
    assert left.left() == 0


def test_a_busy_machine_is_learnt_from_the_first_cells(clock: list[float]) -> None:
    left = Forecast(dict.fromkeys("abcdefgh", 10.0))
    for key in "abcd":  # each takes three times as long as was thought
        left.begin(key)
        clock[0] += 30
        left.end(key)
    assert 3 * 40 * 0.85 < left.left() < 3 * 40


def test_workers_share_the_work_but_no_cell(clock: list[float]) -> None:
    assert Forecast({"a": 10.0, "b": 10.0}, workers=2).left() == 10
    assert Forecast({"a": 10.0, "b": 50.0}, workers=4).left() == 50
    followed = Forecast({"a": 10.0, "b": 10.0, "c": 10.0}, workers=2)
    followed.follow({"a", "b"}, lambda _: False)
    clock[0] = 10.0
    followed.follow({"c"}, {"a", "b"}.__contains__)
    assert followed.left() == pytest.approx(10)


def test_a_cell_whose_process_died_begins_anew(clock: list[float]) -> None:
    left = Forecast({"a": 10.0})
    left.follow({"a"}, lambda _: False)
    clock[0] = 8.0
    left.follow((), lambda _: False)
    assert left.left() == 10


def test_every_missing_cell_has_its_seconds_and_kinds_are_timed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(plan(), {"joint": "joint"}, folder=tmp_path, seeds=3)
    asked: list[str] = []
    for strategy in study.strategies.values():
        name = strategy.card.name
        monkeypatch.setattr(
            type(strategy), "seconds", lambda *_, name=name: asked.append(name) or 2.0
        )
    found = expected(study)
    assert set(found) == {cell.key for cell in study.wanted()}
    assert set(found.values()) == {2.0 + CELL}
    assert len(asked) == len({str(cell.describe()["strategy"]) for cell in study.wanted()})


def test_a_strategy_that_cannot_be_timed_does_not_stop_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> float:
        raise RuntimeError("no luck today")

    study = Study(plan(), {"joint": "joint"}, folder=tmp_path, seeds=1)
    for strategy in study.strategies.values():
        monkeypatch.setattr(type(strategy), "seconds", fail)
    assert set(expected(study).values()) == {CELL}


def test_a_busy_machine_is_said_with_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(forecast.os, "getloadavg", lambda: (1.9, 0.0, 0.0), raising=False)
    assert forecast.told(180) == "about 3 min"
    monkeypatch.setattr(forecast.os, "getloadavg", lambda: (7.0, 0.0, 0.0), raising=False)
    assert forecast.told(180) == "about 3 min (longer while the machine is as busy as now)"
