"""The answer: planted truths lead to the right one of four forms."""

from __future__ import annotations

import pytest
from planted import binary, cells, real

from plait.comparing.answer import answer, harmed_tasks
from plait.comparing.leaderboard import Contender, standings
from plait.comparing.results import Cost
from plait.comparing.statistics import rank

FAST = 400
PLAIN = {"prior", "linear", "forest"}
SIZES = {
    "separate": 12_000.0,
    "joint": 2500.0,
    "merge": 2500.0,
    "prior": 4.0,
    "forest": 90_000.0,
    "linear": 100.0,
}


def ask(noise, *, tasks, valid_noise=None, rows=400, costs=None, failed=(), **kwargs):
    """The answer for planted noise, on validation rows and test rows drawn anew."""
    test, valid = (
        rank(cells(tasks, planted, rows=rows, seed=seed, **kwargs), tasks, replicates=FAST)
        for planted, seed in ((noise, 1), (valid_noise or noise, 2))
    )
    contenders = [
        Contender(strategy=name, baseline=name in PLAIN,
                  cost=(costs or {}).get(name, Cost(parameters=SIZES[name], seconds=1)))
        for name in noise
    ]  # fmt: skip
    contenders += [Contender(strategy=name, failed="out of memory") for name in failed]
    return answer(standings(contenders, test, valid), test, valid)


ABC = binary("a", "b", "c")


def test_joint_as_good_as_separate_is_one_model():
    found = ask({"separate": 0.5, "joint": 0.5, "forest": 2.0}, tasks=ABC, rows=800)
    assert found.form == "one"
    assert found.headline.startswith(
        "One model is as good as 3 separate ones, at a fifth of the size: joint, "
    )
    assert "%" in found.headline
    assert found.use == "Use joint: one model for all 3 tasks."
    assert found.share == ("a", "b", "c")
    assert found.separate == ()
    assert any(
        "Chosen on the validation rows, measured on the test rows" in r for r in found.reasons
    )


def test_joint_ahead_of_separate_is_better():
    found = ask({"separate": 1.5, "joint": 0.5}, tasks=ABC)
    assert found.form == "one"
    assert "One model is better than 3 separate ones" in found.headline
    assert any("joint helps 3 of 3 tasks" in reason for reason in found.reasons)


def test_a_size_that_is_not_known_is_not_told():
    costs = {"joint": Cost(seconds=1), "separate": Cost(seconds=1)}
    found = ask({"separate": 1.5, "joint": 0.5}, tasks=ABC, costs=costs)
    assert "size" not in found.headline


def test_help_and_harm_is_mixed_and_names_the_tasks():
    harm = {"separate": 1.0, "joint": {"a": 0.5, "b": 0.5, "c": 2.5}, "forest": 3.0}
    found = ask(harm, tasks=ABC)
    assert found.form == "mixed"
    assert found.headline == "Share a and b; keep c separate."
    assert (found.share, found.separate) == (("a", "b"), ("c",))
    assert found.use.startswith("Use joint for a and b and separate models for c: +")
    assert any("found on the validation rows and measured on the test rows" in r
               for r in found.reasons)  # fmt: skip


def test_long_lists_of_tasks_are_shortened():
    tasks = binary(*(f"t{i}" for i in range(30)))
    hurt = {name: 3.0 if name in ("t3", "t4", "t5", "t6", "t7") else 0.5 for name in tasks.names}
    found = ask({"separate": 1.0, "joint": hurt}, tasks=tasks, rows=300, seeds=1)
    assert found.form == "mixed"
    assert found.headline == "Share t0, t1, t2 and 22 more; keep t3, t4, t5 and 2 more separate."
    assert len(found.share) == 25


def test_harm_that_validation_shows_and_the_test_denies_is_not_claimed():
    harm = {"separate": 0.5, "joint": {"a": 0.5, "b": 0.5, "c": 2.5}}
    found = ask({"separate": 0.5, "joint": 0.5}, valid_noise=harm, tasks=ABC, rows=800)
    assert found.form == "one"
    assert found.separate == ()


def test_harm_that_only_the_test_shows_is_a_warning_not_a_choice():
    fine = {"separate": 0.8, "joint": 0.5}
    harm = {"separate": 0.8, "joint": {"a": 0.2, "b": 0.2, "c": 1.4}}
    found = ask(harm, valid_noise=fine, tasks=ABC, rows=1500)
    assert found.separate == ()
    assert any(reason.startswith("Watch c: harmed on test") for reason in found.reasons)


def test_harm_all_over_keeps_the_tasks_separate():
    found = ask({"separate": 0.5, "joint": 2.5, "merge": 3.0}, tasks=ABC)
    assert found.form == "mixed"
    assert found.headline.startswith("Keep the tasks separate: joint, the best shared model, is −")
    assert found.use == "Use separate."
    assert found.separate == ("a", "b", "c")
    assert found.share == ()


def test_one_task_that_gains_from_the_others_is_shared_alone():
    harm = {"separate": 1.0, "joint": {"a": 0.3, "b": 2.5, "c": 2.5}}
    found = ask(harm, tasks=ABC)
    assert found.headline == "Use the shared model for a only; keep b and c separate."


def test_a_forest_ahead_of_all_networks_is_a_baseline():
    found = ask({"separate": 1.5, "joint": 1.4, "prior": 9.0, "forest": 0.3}, tasks=ABC)
    assert found.form == "baseline"
    assert found.headline.startswith("A plain baseline wins: forest is +")
    assert "the best network" in found.headline
    assert found.use.startswith("Use forest")


def test_a_baseline_as_good_and_cheaper_is_a_baseline():
    noise = {"separate": 0.5, "joint": 0.5, "linear": 0.5}
    found = ask(noise, tasks=ABC, rows=1500, own=0.05)
    assert found.form == "baseline"
    assert found.headline.startswith("A plain baseline is as good: linear")


def test_a_baseline_as_good_but_dearer_is_not():
    found = ask({"separate": 0.5, "joint": 0.5, "forest": 0.5}, tasks=ABC, rows=1500, own=0.05)
    assert found.form == "one"


def test_the_network_to_beat_is_the_best_on_validation():
    valid = {"separate": 0.3, "joint": 1.5, "forest": 0.8}
    test = {"separate": 1.5, "joint": 0.2, "forest": 0.8}
    found = ask(test, valid_noise=valid, tasks=ABC)
    assert found.form == "baseline"
    assert "against separate, the best network" in found.headline


def test_the_answer_is_about_the_shared_model_that_the_leaderboard_chose():
    """merge is behind joint, but tied with separate, the best, and cheaper."""
    noise = {"separate": 0.0, "joint": 0.97, "merge": 0.98}
    own = {"separate": 0.93, "joint": 0.0, "merge": 0.0}
    tasks = real("a", "b")
    test, valid = (
        rank(cells(tasks, noise, rows=150, seed=s, seeds=1, own=own), tasks, replicates=FAST)
        for s in (1, 2)
    )
    costs = {"separate": 9.0, "joint": 5.0, "merge": 4.0}
    contenders = [Contender(strategy=n, cost=Cost(parameters=size)) for n, size in costs.items()]
    board = standings(contenders, test, valid)
    assert valid.difference("joint", "merge").low > 0
    assert [row.strategy for row in board if row.chosen] == ["merge"]
    found = answer(board, test, valid)
    assert ": merge" in found.headline


@pytest.mark.parametrize("tasks", [binary("a", "b"), real("a", "b")])
def test_twenty_noisy_rows_are_too_little(tasks):
    forms = []
    for seed in range(5):
        noise = {"separate": 1.0, "joint": 1.0, "forest": 1.2}
        test, valid = (
            rank(cells(tasks, noise, rows=20, seed=s, own=1.5), tasks, replicates=FAST)
            for s in (10 + seed, 20 + seed)
        )
        contenders = [Contender(strategy=name, baseline=name in PLAIN) for name in noise]
        found = answer(standings(contenders, test, valid), test, valid)
        forms.append(found.form)
        if found.form == "unclear":
            assert found.headline.startswith("Too little data to tell: ")
            assert "times as many test rows" in " ".join(found.reasons)
    assert forms.count("unclear") >= 4


def test_a_little_worse_beyond_noise_is_within_the_margin():
    found = ask({"separate": 1.0, "joint": 1.012}, tasks=real("a", "b"), rows=800, own=0.0)
    assert found.form == "one"
    assert found.headline.startswith("One model is within 3 % of 2 separate ones")
    assert found.use == "Use joint where one model matters, separate where every per cent does."


def test_more_than_the_margin_worse_is_not_as_good():
    found = ask({"separate": 1.0, "joint": 1.06}, tasks=real("a", "b"), rows=800, own=0.0)
    assert found.form == "mixed"
    assert found.use == "Use separate."


def test_without_separate_there_is_no_answer():
    found = ask({"joint": 0.5, "merge": 0.6}, tasks=ABC, failed=("separate",))
    assert found.form == "unclear"
    assert found.headline == "No answer yet: separate has no figures to compare with."


def test_without_a_shared_model_there_is_no_answer():
    found = ask({"separate": 0.5, "forest": 1.5}, tasks=ABC)
    assert found.form == "unclear"
    assert "no model that shares anything" in found.headline


def test_without_validation_rows_nothing_is_chosen_by_the_test():
    tasks = ABC
    test = rank(cells(tasks, {"separate": 1.0, "joint": 0.3}), tasks, replicates=FAST)
    valid = rank([], tasks)
    contenders = [Contender(strategy=name) for name in ("separate", "joint")]
    found = answer(standings(contenders, test, valid), test, valid)
    assert found.form == "unclear"


def test_few_validation_rows_do_not_choose_what_lies_far_behind():
    """Twelve rows tie all with all, and the cheapest is far behind the best."""
    noise = {"separate": 1.0, "joint": 0.6, "linear": 1.4}
    test, valid = (
        rank(cells(ABC, noise, rows=rows, seed=3), ABC, replicates=FAST) for rows in (600, 12)
    )
    assert not valid.difference("linear", "joint").excludes_zero
    costs = {name: Cost(parameters=SIZES[name]) for name in noise}
    contenders = [Contender(strategy=name, cost=cost) for name, cost in costs.items()]
    board = standings(contenders, test, valid)
    assert [row.strategy for row in board if row.chosen] == ["joint"]


def test_a_choice_that_the_test_speaks_against_is_told():
    """As good as the best on the validation rows and cheaper, but far behind on the test rows."""
    noise = {"separate": 1.0, "joint": 0.6, "linear": 1.4}
    test = rank(cells(ABC, noise, rows=600, seed=3), ABC, replicates=FAST)
    valid = rank(cells(ABC, {**noise, "linear": 0.3}, rows=12, seed=3), ABC, replicates=FAST)
    contenders = [
        Contender(strategy=name, baseline=name in PLAIN, cost=Cost(parameters=SIZES[name]))
        for name in noise
    ]
    board = standings(contenders, test, valid)
    assert [row.strategy for row in board if row.chosen] == ["linear"]
    found = answer(board, test, valid)
    assert found.form == "one"
    assert found.use.startswith("Use joint")
    told = [
        reason for reason in found.reasons if "(→) is linear, the cheapest of the tied" in reason
    ]
    assert len(told) == 1
    assert "on the test rows it is −" in told[0]


def test_the_correction_names_few_tasks_that_are_not_harmed():
    tasks = binary(*(f"t{i}" for i in range(60)))
    noise = {"separate": 1.0, "joint": {name: 4.0 if name == "t7" else 1.0 for name in tasks.names}}
    valid = rank(cells(tasks, noise, rows=150, own=0.5, seeds=1), tasks, replicates=FAST)
    named = harmed_tasks(valid, "joint")
    flagged = [score.task for score in valid.of("joint").values() if score.harmed]
    assert "t7" in named
    assert len(named) <= 3
    assert len(named) <= len(flagged)
