"""The ``tune:`` block: what it accepts, and that what it accepts is what a study can tune."""

from __future__ import annotations

import pytest

from plait.comparing.tune import Tune
from plait.method import resolve
from plait.recipes import RecipeError, loads

HEAD = (
    "data: {table: x.csv}\ntasks: [a]\n"
    "strategies: {experts: {joint: {sharing: {mmoe: {experts: 4}}}}, joint: {}}\n"
)


@pytest.mark.parametrize(
    "over",
    [
        "{learning_rate: {low: 1e-4, high: 1e-2}}",
        "{passes: [10, 20], batch: [auto, 64]}",
        "{experts.sharing.experts: [2, 8], joint.balancing: [equal, pcgrad]}",
        "{experts.sharing: [hard, mmoe]}",
    ],
)
def test_what_is_accepted_can_be_tuned(over: str) -> None:
    spec = loads(f"{HEAD}tune: {{trials: 3, over: {over}}}")
    assert spec.tune is not None
    strategies = {label: resolve("strategy", one) for label, one in spec.strategies.items()}
    Tune.of(spec.tune).check(strategies)


def test_every_wrong_setting_is_told_at_its_own_line() -> None:
    with pytest.raises(RecipeError) as caught:
        loads(
            f"{HEAD}tune:\n  over:\n    learning_raet: [1]\n    learning_rate: [0]\n"
            "    experts.sharng: [hard]\n    expert.sharing: [hard]\n"
        )
    lines = [mistake.split(":")[1] for mistake in caught.value.mistakes]
    assert lines == ["6", "7", "8", "9"]
    assert "did you mean 'sharing'" in caught.value.mistakes[2]
    assert "did you mean 'experts'" in caught.value.mistakes[3]


def test_a_strategy_that_is_itself_wrong_is_told_once() -> None:
    with pytest.raises(RecipeError) as caught:
        loads(
            "data: x.csv\ntasks: [a]\nstrategies: {a: {joint: {sharing: mnoe}}}\n"
            "tune: {over: {a.sharing.experts: [2]}}\n"
        )
    assert len(caught.value.mistakes) == 1
