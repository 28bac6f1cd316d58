"""Seconds of a training from a few timed steps."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from studies import dataset, plan

from plait.comparing.building import make_network
from plait.comparing.timing import Moment, extrapolated, likely, passes_of, seconds_of


def test_waiting_is_no_work_but_the_clock_on_the_wall_counts_it() -> None:
    before = Moment.now()
    time.sleep(0.2)
    after = Moment.now()
    assert after.since(before) < 0.1
    assert after.since(before, on_cpu=False) >= 0.2


def test_the_likely_number_is_wrong_by_the_same_factor_either_way() -> None:
    assert likely(4, 64) == 16
    assert likely(100, 64) == 64


def test_early_stopping_is_expected_where_it_can_happen() -> None:
    given = plan(passes=49, patience=3)
    assert passes_of(given) == 14
    assert passes_of(given, 9) == 6
    assert passes_of(given, early=False) == 49
    assert passes_of(plan(passes=49, patience=None)) == 49
    unjudged = replace(given, source=lambda: dataset().with_split(all_train=True))
    assert passes_of(unjudged) == 49


def test_the_time_grows_with_the_passes_and_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))

    def tick() -> Moment:
        now = 0.1 * next(ticks)
        return Moment(now, now, now)

    monkeypatch.setattr(Moment, "now", staticmethod(tick))
    given = plan(passes=4, patience=None, batch=16)
    steps = -(-len(given.dataset.rows("train")) // 16)
    found = seconds_of(given, make_network(given, 0))
    assert found == pytest.approx(4 * (0.1 * steps + 0.1), rel=0.15)
    assert seconds_of(given, make_network(given, 0), passes=8) == pytest.approx(2 * found)


def test_a_fit_is_extrapolated_from_few_members(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    asked: list[int] = []

    def fit(members: int) -> None:
        asked.append(members)
        now[0] += 0.5 + 0.1 * members  # half a second to build the table

    monkeypatch.setattr(Moment, "now", staticmethod(lambda: Moment(now[0], now[0], now[0])))
    assert extrapolated(fit, 100) == pytest.approx(10.5)
    assert max(asked) < 10
    assert extrapolated(fit, 100, fewest=25) == pytest.approx(5.5)


def test_a_slow_fit_is_tried_once_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    asked: list[int] = []

    def fit(members: int) -> None:
        asked.append(members)
        now[0] += 60.0 * members

    monkeypatch.setattr(Moment, "now", staticmethod(lambda: Moment(now[0], now[0], now[0])))
    assert extrapolated(fit, 100) == pytest.approx(6000)
    assert asked == [1]
