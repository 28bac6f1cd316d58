from __future__ import annotations

import pytest

from plait.training.schedules import constant, cosine


def test_cosine_rises_then_falls_to_nearly_nothing():
    factor = [cosine(100, 0.1)(step) for step in range(100)]
    assert factor[:11] == sorted(factor[:11])
    assert factor[0] == pytest.approx(1 / 11)
    assert factor[10] == 1.0
    assert factor[10:] == sorted(factor[10:], reverse=True)
    assert factor[55] == pytest.approx(0.5)
    assert 0 < factor[-1] < 1e-3


def test_constant_stays_at_one_after_the_rise():
    factor = [constant(20, 0.2)(step) for step in range(20)]
    assert factor[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(factor[4:]) == {1.0}


def test_without_warm_up_the_first_step_is_whole():
    assert cosine(10)(0) == 1.0
    assert constant(10)(0) == 1.0
