from __future__ import annotations

import pytest
from studies import dataset, plan

from plait.comparing.tune import Tune, changed
from plait.method import resolve, spell

JOINT = {"joint": {"sharing": {"mmoe": {"experts": 3}}}}


def test_the_first_trial_is_the_study_as_it_stands() -> None:
    joint, given = resolve("strategy", "joint"), plan(dataset(80))
    assert Tune(trials=4).trial(0, "joint", joint, given) == (joint, given)


def test_trials_differ_stay_in_their_range_and_repeat() -> None:
    tune = Tune(trials=20, over={"learning_rate": {"low": 1e-4, "high": 1e-2}, "passes": [3, 5]})
    joint, given = resolve("strategy", "joint"), plan(dataset(80))
    drawn = [tune.trial(i, "joint", joint, given)[1].training for i in range(1, 20)]
    assert all(1e-4 <= training.learning_rate <= 1e-2 for training in drawn)
    assert len({training.learning_rate for training in drawn}) == 19
    assert {training.passes for training in drawn} == {3, 5}
    again = [tune.trial(i, "joint", joint, given)[1].training for i in range(1, 20)]
    assert again == drawn
    other = [tune.trial(i, "other", joint, given)[1].training for i in range(1, 20)]
    assert other != drawn


def test_settings_inside_a_strategy_are_reached_by_path() -> None:
    found = changed(resolve("strategy", JOINT), ["sharing", "experts"], 7)
    assert spell(found) == {"joint": {"sharing": {"mmoe": {"experts": 7}}}}
    merge = changed(resolve("strategy", "merge"), ["method", "scale"], 0.4)
    assert spell(merge) == {"merge": {"task_arithmetic": {"scale": 0.4}}}
    with pytest.raises(ValueError, match=r"sharing\.mmoe has no setting 'expert'; did you mean"):
        changed(resolve("strategy", JOINT), ["sharing", "expert"], 7)


def test_only_what_concerns_a_strategy_is_tried() -> None:
    tune = Tune(trials=5, over={"learning_rate": [0.1], "trees.leaf": [1, 5]})
    assert len(tune.numbers("joint", resolve("strategy", "joint"))) == 5
    assert len(tune.numbers("prior", resolve("strategy", "prior"))) == 1
    assert len(tune.numbers("trees", resolve("strategy", "forest"))) == 5


def test_whole_numbers_stay_whole() -> None:
    tune = Tune(trials=9, over={"batch": {"low": 16, "high": 256}})
    joint, given = resolve("strategy", "joint"), plan(dataset(80))
    sizes = [tune.trial(i, "joint", joint, given)[1].training.batch for i in range(1, 9)]
    assert all(isinstance(size, int) and 16 <= size <= 256 for size in sizes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trials": 0}, "trials must be a whole number"),
        ({"trials": 2.5}, "trials must be a whole number"),
        ({"over": {"learning_rate": []}}, "values of 'learning_rate' are a list"),
        ({"over": {"learning_rate": {"low": 2, "high": 1}}}, "0 < low < high"),
        ({"over": {"learning_rate": "fast"}}, "values of 'learning_rate' are a list"),
    ],
)
def test_faulty_blocks_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tune.of(given)
