"""Heat maps of a report: what is averaged, what is shaded, and how many tasks are put together."""

from __future__ import annotations

import re

import numpy as np
import pytest

import results_fixture as fixture
from plait.comparing import report
from plait.comparing.report import maps
from plait.comparing.results import Agreement, Curve


def weight(steps: list[int], seed: str = "0", **series: list[float | None]) -> Curve:
    return Curve(strategy="way", seed=seed, kind="weight", steps=steps, series=series)


def shades(svg: str) -> list[str]:
    return re.findall(r'class="shade-([a-z0-9-]+)"', svg)


def test_a_column_is_the_mean_over_seeds_of_what_was_logged_in_its_steps():
    curves = [
        weight([1, 2, 9], a=[1.0, 3.0, 5.0], b=[None, 2.0, None]),
        weight([1, 9], "1", a=[2.0, 7.0]),
    ]
    names, values, span = maps.over_time(curves, "way", "weight")
    assert (names, span, values.shape) == (["a", "b"], (1, 9), (2, 3))
    assert values[0, 0] == pytest.approx((1 + 3 + 2) / 3)  # steps 1 to 3
    assert values[1].tolist() == pytest.approx([2.0, np.nan, np.nan], nan_ok=True)
    assert values[0, 2] == 6.0
    assert maps.over_time(curves, "other", "weight")[0] == []


def test_weights_are_shaded_by_their_factor_of_the_mean_of_the_tasks_present():
    values = np.array([[4.0, 1.0, np.nan], [0.0, 1.0, 3.0], [-2.0, 1.0, 1.0]])
    assert maps.relative(values) == pytest.approx(
        np.array([[2.0, 1.0, np.nan], [0.0, 1.0, 1.5], [-1.0, 1.0, 0.5]]), nan_ok=True
    )
    factors = [0.0, -1.0, 0.2, 0.26, 0.6, 1.0, 1.1, 1.3, 2.0, 3.9, 4.0, float("nan")]
    assert [maps.shade_of(f) for f in factors] == [-3, -3, -3, -2, -1, 0, 0, 1, 2, 2, 3, None]


def test_weights_that_never_move_have_no_map_and_moving_ones_say_their_last_value():
    assert maps.weights([weight([1, 2], a=[1.0, 1.0], b=[2.0, 2.0])], "way") is None
    drawn = maps.weights([weight([1, 2], a=[1.0, 1.5], b=[1.0, 0.5])], "way")
    assert drawn is not None
    assert shades(drawn.svg) == ["level", "help-1", "level", "harm-2"]
    assert "×1.5" in drawn.svg
    assert "at the end: a ×1.5, b ×0.5" in drawn.svg


def test_many_tasks_are_groups_by_their_last_value():
    series = {f"t{i:03d}": [1.0, 1.0 + i] for i in range(139)}
    drawn = maps.weights([weight([1, 2], **series)], "way")
    assert drawn is not None
    assert "139 tasks in 12 groups" in drawn.note
    rows = re.findall(r"tasks (\d+)–(\d+)</text>", drawn.svg)
    assert len(rows) == 12
    assert rows[0][0] == "1"
    assert rows[-1][1] == "139"
    level = np.mean([1.0 + i for i in range(127, 139)]) / 70  # the largest twelve by the mean
    assert f"tasks 1–12 ×{level:.2g}" in drawn.svg


def agreement(cosines: np.ndarray, names: list[str]) -> Agreement:
    given = [[None if np.isnan(v) else float(v) for v in row] for row in cosines]
    return Agreement(strategy="way", seed="0", tasks=names, cosines=given)


def test_tasks_that_agree_stand_together_and_squares_tell_their_cosine():
    camp = np.array([1, -1, 1, -1])
    mean = 0.6 * np.outer(camp, camp) + 0.0
    np.fill_diagonal(mean, np.nan)
    drawn = maps.cosines([agreement(mean, ["a", "b", "c", "d"])], "way")
    assert drawn is not None
    order = re.findall(r">\d ([a-d])</text>", drawn.svg)
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset("ac"), frozenset("bd")}
    assert sorted(set(shades(drawn.svg))) == ["harm-3", "help-3"]
    assert len(shades(drawn.svg)) == 12  # no task with itself
    assert "+0.60" in drawn.svg
    assert "−0.60" in drawn.svg
    assert maps.cosines([agreement(mean, list("abcd"))], "other") is None


def test_seeds_are_averaged_by_the_names_of_the_tasks():
    one = agreement(np.array([[np.nan, 0.8], [0.8, np.nan]]), ["a", "b"])
    two = agreement(np.array([[np.nan, 0.0], [0.0, np.nan]]), ["b", "a"])
    drawn = maps.cosines([one, two], "way")
    assert drawn is not None
    assert drawn.svg.count("+0.40</text>") == 2


def test_very_many_tasks_are_groups_that_agree():
    names = [f"t{i}" for i in range(139)]
    camp = np.where(np.arange(139) < 60, 1.0, -1.0)
    mean = 0.7 * np.outer(camp, camp)
    np.fill_diagonal(mean, np.nan)
    drawn = maps.cosines([agreement(mean, names)], "way")
    assert drawn is not None
    assert "139 tasks in 2 groups" in drawn.note
    assert shades(drawn.svg) == ["help-3", "harm-3", "harm-3", "help-3"]


def test_a_page_shows_who_agrees_who_pulls_and_what_each_measure_means():
    page = report.html(fixture.wide(12))
    for words in ("Who agrees with whom", "Who pulls how hard", "A half is what gradients"):
        assert words in page
    for title in ("Condition number of the Gramian", "Curvature bound of the tragic triad"):
        assert title in page
