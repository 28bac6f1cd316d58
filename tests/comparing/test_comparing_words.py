"""Figures and names as people read them."""

from __future__ import annotations

import pytest

from plait.comparing import words
from plait.comparing.results import UNDEFINED, Interval


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.21, "+3.2 %"), (-0.44, "−0.4 %"), (0.0, "+0.0 %"), (-0.01, "+0.0 %"), (240.3, "+240 %")],
)
def test_a_change_has_a_sign(value, text):
    assert words.percent(value) == text


def test_a_gain_has_its_interval():
    assert words.gain(Interval(-1.0, -2.5, 0.5)) == "−1.0 % [−2.5, +0.5]"
    assert words.gain(Interval(1.0)) == "+1.0 %"
    assert words.gain(UNDEFINED) == "undefined"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "undefined"), (0.84216, "0.842"), (0.0, "0.000"), (12.3456, "12.35"), (-0.5, "−0.500"),
     (0.0001234, "0.0001234"), (123456.0, "1.235e+05")],
)  # fmt: skip
def test_a_metric_has_three_or_four_digits(value, text):
    assert words.figure(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (812, "812"), (12_345, "12.3 k"), (22_700_000, "22.7 M")]
)
def test_parameters_are_counted(value, text):
    assert words.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (2.5e-6, "2.5 µs"), (0.0123, "12.3 ms"), (0.4, "0.4 s"), (12.3, "12 s"),
     (59.7, "1 min"), (180, "3 min"), (3599, "1 h"), (4800, "1 h 20 min")],
)  # fmt: skip
def test_times_are_told(value, text):
    assert words.duration(value) == text


def test_names_lose_what_moves_a_cursor_or_turns_a_line():
    assert words.plain("a\x1b[31m\u202eb\u200b\r\nc\x9b") == "a[31mb c"


@pytest.mark.parametrize(
    ("names", "text"),
    [((), ""), (("a",), "a"), (("a", "b"), "a and b"), (tuple("abcd"), "a, b, c and d"),
     (tuple("abcde"), "a, b, c and 2 more")],
)  # fmt: skip
def test_long_lists_are_cut(names, text):
    assert words.listed(names) == text
