"""The ruler: gains, intervals and comparisons on predictions whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted import binary, cells, real

from plait.comparing.ranking import interval, pivotal
from plait.comparing.results import UNDEFINED
from plait.comparing.statistics import (
    DEFINITIONS,
    CellPredictions,
    TaskPredictions,
    rank,
)
from plait.metrics import METRICS
from plait.task import KINDS, Task, TaskSet

FAST = 200


def changed(made, strategy, **tasks):
    """The cells with some tasks of one strategy replaced (None: taken out)."""
    out = []
    for cell in made:
        found = dict(cell.predictions)
        if cell.strategy == strategy:
            for name, change in tasks.items():
                if change is None:
                    del found[name]
                else:
                    found[name] = replace(found[name], **change)
        out.append(replace(cell, predictions=found))
    return out


def test_figures_are_means_over_seeds_and_gains_follow_their_definition():
    tasks = TaskSet([Task(name="a", kind="binary"), Task(name="b", kind="real")])
    made = cells(tasks, {"separate": 0.6, "joint": 0.3})
    found = rank(made, tasks, replicates=FAST)
    mean = {}
    for strategy in ("separate", "joint"):
        own = [cell.predictions for cell in made if cell.strategy == strategy]
        for task in tasks:
            for name in task.metrics:
                scores = [METRICS[name].score(p[task.name].truth, p[task.name].prediction)
                          for p in own]  # fmt: skip
                mean[strategy, task.name, name] = np.mean(scores)
    for score in found.scores:
        for name, figure in score.metrics.items():
            assert figure.value == pytest.approx(mean[score.strategy, score.task, name], abs=1e-12)
            assert figure.low <= figure.value <= figure.high

    def gain(task, name):
        sign = 1 if METRICS[name].higher else -1
        ours, theirs = mean["joint", task, name], mean["separate", task, name]
        return sign * 100 * (ours - theirs) / abs(theirs)

    scores = found.of("joint")
    assert scores["a"].gain.value == pytest.approx(gain("a", "auroc"))
    assert scores["b"].gain.value == pytest.approx(gain("b", "rmse"))
    assert scores["b"].gain.value > 0  # a lower error is a gain
    assert found.gain["joint"].value == pytest.approx((gain("a", "auroc") + gain("b", "rmse")) / 2)
    every = [gain(task.name, name) for task in tasks for name in task.metrics]
    assert found.gain_metrics["joint"].value == pytest.approx(np.mean(every))
    assert found.gain["separate"] == found.gain_metrics["separate"]
    assert (found.gain["separate"].low, found.gain["separate"].high) == (0, 0)
    assert found.seeds == {"separate": 2, "joint": 2}


def test_tasks_and_metrics_can_disagree_in_sign():
    tasks = TaskSet([Task(name="a", kind="binary", metrics=("accuracy", "log_loss", "brier"))])
    truth, rows = np.array([0, 1] * 50), np.arange(100)
    sure = np.where(truth == 1, 0.95, 0.05)
    sure[:4] = 1 - sure[:4]
    unsure = np.where(truth == 1, 0.6, 0.4)
    unsure[:2] = 1 - unsure[:2]
    made = [
        CellPredictions("separate", 0, {"a": TaskPredictions(rows, rows, truth, sure)}),
        CellPredictions("joint", 0, {"a": TaskPredictions(rows, rows, truth, unsure)}),
    ]
    found = rank(made, tasks, replicates=FAST)
    assert found.gain["joint"].value > 0 > found.gain_metrics["joint"].value


def test_the_mean_score_is_told_only_where_tasks_share_a_metric():
    same = rank(cells(binary("a", "b"), {"separate": 1.0}), binary("a", "b"), replicates=FAST)
    assert same.metric == "auroc"
    values = [score.metrics["auroc"].value for score in same.scores]
    assert same.score["separate"].value == pytest.approx(np.mean(values))
    tasks = TaskSet([*binary("a"), *real("b")])
    mixed = rank(cells(tasks, {"separate": 1.0}), tasks, replicates=FAST)
    assert mixed.metric == ""
    assert mixed.score["separate"] == UNDEFINED


def test_the_order_of_strategies_tasks_cells_and_rows_changes_nothing():
    noise = {"separate": 1.0, "joint": 0.8, "merge": 1.2}
    tasks = binary("a", "b", "c")
    made = cells(tasks, noise, rows=80)
    first = rank(made, tasks, replicates=FAST)
    random = np.random.default_rng(0)
    shuffled = []
    for at in random.permutation(len(made)):
        found = {}
        for name in ("c", "a", "b"):
            given = made[at].predictions[name]
            order = random.permutation(len(given.rows))
            found[name] = TaskPredictions(
                given.rows[order], given.units[order], given.truth[order], given.prediction[order]
            )
        shuffled.append(replace(made[at], predictions=found))
    other = rank(shuffled, TaskSet([tasks["b"], tasks["c"], tasks["a"]]), replicates=FAST)
    for name in noise:
        for mine, theirs in ((first.gain[name], other.gain[name]),
                             (first.score[name], other.score[name]),
                             (first.gain_metrics[name], other.gain_metrics[name])):  # fmt: skip
            assert [mine.value, mine.low, mine.high] == pytest.approx(
                [theirs.value, theirs.low, theirs.high], abs=1e-9
            )
        for task in tasks.names:
            mine, theirs = first.of(name)[task], other.of(name)[task]
            assert mine.metrics == theirs.metrics
            assert mine.gain == theirs.gain
    alone = rank([c for c in made if c.strategy != "merge"], tasks, replicates=FAST)
    assert alone.gain["joint"] == first.gain["joint"]


def test_the_seed_decides_the_resamples():
    tasks = binary("a")
    made = cells(tasks, {"separate": 1.0, "joint": 0.8}, rows=60)
    one, same, other = (rank(made, tasks, replicates=FAST, seed=s).gain["joint"] for s in (1, 1, 2))
    assert one == same
    assert one.value == other.value
    assert one.low != other.low


def test_intervals_of_gains_cover_the_truth_even_over_many_small_tasks():
    """Two strategies equally good: 95 of 100 intervals hold 0 (percentile intervals: 50)."""
    tasks = TaskSet(Task(name=f"t{i}", kind="real", metrics=("rmse",)) for i in range(25))
    covered = 0
    for study in range(40):
        random = np.random.default_rng(study)
        predictions: dict[str, dict[str, TaskPredictions]] = {"separate": {}, "joint": {}}
        for at, task in enumerate(tasks):
            rows = np.arange(12) + 12 * at
            truth = random.normal(size=12)
            for found in predictions.values():
                guess = truth + random.normal(size=12)
                found[task.name] = TaskPredictions(rows, rows, truth, guess)
        made = [CellPredictions(name, 0, found) for name, found in predictions.items()]
        gain = rank(made, tasks, replicates=FAST).gain["joint"]
        covered += gain.low <= 0 <= gain.high
    assert covered >= 35


def test_the_spread_over_seeds_is_that_of_their_mean():
    """Many rows, three seeds far apart: the interval's width comes from the seeds alone."""
    tasks = TaskSet([Task(name="a", kind="real", metrics=("mae",))])
    rows = np.arange(2000)
    truth = np.zeros(len(rows))
    offsets = np.array([1.0, 1.3, 1.6])
    made = []
    for seed, offset in enumerate(offsets):
        found = {"a": TaskPredictions(rows, rows, truth, truth + offset)}
        made.append(CellPredictions("separate", seed, found))
    figure = rank(made, tasks, replicates=4000).scores[0].metrics["mae"]
    assert figure.value == pytest.approx(1.3)
    error = offsets.std(ddof=1) / np.sqrt(3)
    assert (figure.high - figure.low) / 2 == pytest.approx(1.96 * error, rel=0.15)


def test_groups_widen_intervals_where_rows_of_a_group_agree():
    tasks = binary("a")
    made = cells(tasks, {"separate": 1.0, "joint": 0.7}, rows=60)
    repeated = []
    for cell in made:
        given = cell.predictions["a"]
        ten = [np.repeat(some, 10) for some in (given.truth, given.prediction)]
        rows = np.arange(600)
        for units in (rows, np.repeat(given.units, 10)):
            found = {"a": TaskPredictions(rows, units, *ten)}
            repeated.append(replace(cell, predictions=found))
    by_row = rank(repeated[::2], tasks, replicates=1000)
    by_group = rank(repeated[1::2], tasks, replicates=1000)
    single = rank(made, tasks, replicates=1000)

    def width(found):
        gain = found.gain["joint"]
        return gain.high - gain.low

    assert by_row.gain["joint"].value == by_group.gain["joint"].value
    assert width(by_group) == pytest.approx(width(single), rel=0.15)
    assert width(by_row) < 0.5 * width(by_group)
    assert "60 groups of rows" in by_group.notes[0]
    assert "resamples of the rows" in by_row.notes[0]


def test_pairing_makes_small_differences_visible():
    """The same rows are drawn for both: what they have in common cancels."""
    tasks = TaskSet([Task(name="a", kind="real", metrics=("rmse",))])
    made = cells(tasks, {"separate": 1.0, "joint": 0.97}, rows=150, own=0.0)
    found = rank(made, tasks)
    assert found.gain["joint"].low > 0
    scores = {name: found.of(name)["a"].metrics["rmse"] for name in ("separate", "joint")}
    assert scores["joint"].high > scores["separate"].low  # their own intervals overlap


def test_only_matched_seeds_are_compared():
    tasks = binary("a")
    made = cells(tasks, {"separate": 1.0, "joint": 0.8, "merge": 0.9}, seeds=3)
    missing = [c for c in made if not (c.strategy == "joint" and c.seed == 2)]
    found = rank(missing, tasks, replicates=FAST)
    two = rank([c for c in made if c.seed != 2], tasks, replicates=FAST)
    assert found.gain["joint"] == two.gain["joint"]
    assert found.difference("merge", "joint") == two.difference("merge", "joint")
    assert found.gain["merge"] == rank(made, tasks, replicates=FAST).gain["merge"]
    assert found.seeds["joint"] == 2
    assert any("joint and separate have 2 seeds in common" in note for note in found.notes)
    apart = [c for c in made if (c.seed == 0) == (c.strategy == "joint")]
    nothing = rank(apart, tasks, replicates=FAST)
    assert nothing.gain["joint"] == UNDEFINED
    assert nothing.of("joint")["a"].reason == "no seed in common with separate"
    assert nothing.of("joint")["a"].metrics["auroc"].defined


def test_a_strategy_without_randomness_stands_for_every_seed():
    tasks = binary("a")
    noise = {"separate": 1.0, "forest": 0.6}
    made = cells(tasks, noise, seeds=3, steady=("forest",))
    once = rank(made, tasks, replicates=FAST)
    copies = [c for c in made if c.strategy == "separate"]
    copies += [replace(made[-1], seed=seed) for seed in range(3)]
    thrice = rank(copies, tasks, replicates=FAST)
    assert once.gain["forest"] == thrice.gain["forest"]
    assert (once.seeds["forest"], thrice.seeds["forest"]) == (1, 3)


def test_seeds_of_several_splits_have_rows_of_their_own():
    tasks = binary("a")
    parts = []
    for split in (0, 1):
        for cell in cells(tasks, {"separate": 1.0, "joint": 0.6}, seed=split, rows=100):
            given = cell.predictions["a"]
            moved = replace(given, rows=given.rows + 50 * split, units=given.units + 50 * split)
            parts.append(replace(cell, predictions={"a": moved}, split=split))
    found = rank(parts, tasks, replicates=FAST)
    assert found.seeds["joint"] == 4
    assert found.gain["joint"].low > 0


def test_a_task_without_predictions_is_not_averaged_away():
    tasks = binary("a", "b")
    made = cells(tasks, {"separate": 1.0, "joint": 0.6})
    found = rank(changed(made, "joint", b=None), tasks, replicates=FAST)
    assert found.gain["joint"] == found.score["joint"] == UNDEFINED
    assert found.incomplete == {"joint": ("b",)}
    assert found.of("joint")["a"].gain.defined
    assert found.of("joint")["b"].reason == "no predictions"
    assert any("joint gave no predictions for b: not ranked" in note for note in found.notes)
    one = [
        replace(c, predictions={"a": c.predictions["a"]})
        if (c.strategy, c.seed) == ("joint", 1) else c
        for c in made
    ]  # fmt: skip
    found = rank(one, tasks, replicates=FAST)
    assert found.of("joint")["b"].reason == "no predictions for seed 1"


def test_undefined_metrics_are_left_out_with_a_count_and_a_reason():
    tasks = binary("a", "b")
    made = cells(tasks, {"separate": 1.0, "joint": 0.6})
    for name in ("separate", "joint"):
        made = changed(made, name, b={"truth": np.zeros(400, int)})
    found = rank(made, tasks, replicates=FAST)
    score = found.of("joint")["b"]
    assert score.metrics["auroc"] == UNDEFINED
    assert score.metrics["accuracy"].defined
    assert score.reason == "the rows hold one class only"
    assert found.gain["joint"] == found.of("joint")["a"].gain
    assert any(
        "auroc is left out of gains for b: the rows hold one class only" in note
        for note in found.notes
    )


def test_a_task_nobody_has_rows_for_is_undefined_for_all():
    tasks = binary("a", "b")
    made = [
        replace(c, predictions={"a": c.predictions["a"]})
        for c in cells(tasks, {"separate": 1.0, "joint": 0.6})
    ]
    found = rank(made, tasks, replicates=FAST)
    assert found.gain["joint"].defined
    assert found.of("joint")["b"].reason == "no rows"
    empty = TaskPredictions(*(np.zeros(0, int) for _ in range(3)), np.zeros(0))
    for cell in made:
        cell.predictions["b"] = empty
    again = rank(made, tasks, replicates=FAST)
    assert again.of("joint")["b"].reason == "no rows"
    assert again.gain["joint"] == found.gain["joint"]


def test_without_any_rows_all_is_undefined_and_nothing_breaks():
    tasks = binary("a")
    found = rank([CellPredictions("separate", 0, {})], tasks, replicates=FAST)
    assert found.gain["separate"] == UNDEFINED
    assert found.scores[0].reason == "no rows"


def test_a_reference_near_zero_divides_nothing():
    tasks = TaskSet([Task(name="a", kind="real", metrics=("r2", "rmse"))])
    rows = np.arange(50)
    truth = np.random.default_rng(0).normal(size=50)
    guess = np.full(50, truth.mean())
    guess[0] += 0.1
    made = [
        CellPredictions("separate", 0, {"a": TaskPredictions(rows, rows, truth, guess)}),
        CellPredictions("joint", 0, {"a": TaskPredictions(rows, rows, truth, 0.5 * truth)}),
    ]
    found = rank(made, tasks, replicates=FAST)
    score = found.of("joint")["a"]
    assert score.metrics["r2"].value > 0.5
    assert score.gain == UNDEFINED
    assert (
        score.reason == "separate is less than 3 standard errors from zero, too close to divide by"
    )
    assert found.gain["joint"] == UNDEFINED
    assert found.gain_metrics["joint"].value > 10  # rmse alone
    perfect = [made[0], replace(made[1], strategy="other")]
    perfect[0] = CellPredictions("separate", 0, {"a": TaskPredictions(rows, rows, truth, truth)})
    exact = TaskSet([Task(name="a", kind="real", metrics=("rmse",))])
    assert rank(perfect, exact, replicates=FAST).gain["other"] == UNDEFINED


def test_users_are_resampled_whole_and_those_of_one_class_are_told():
    tasks = TaskSet([Task(name="click", kind="binary", metrics=("gauc", "auroc"))])
    random = np.random.default_rng(0)
    rows = np.arange(600)
    user = random.integers(0, 40, 600)
    user[:5] = [-1, 100, 101, 102, 103]  # nobody's, and users of one row
    truth = (random.random(600) < 0.4).astype(int)
    made = {}
    for name, noise in (("separate", 1.5), ("joint", 1.0)):
        given = 1 / (1 + np.exp(-(truth + noise * random.normal(size=600))))
        made[name] = TaskPredictions(rows, user, truth, given, group=user)
    shuffled = random.permutation(600)
    parts = ("rows", "units", "truth", "prediction", "group")
    mixed = replace(made["joint"], **{p: getattr(made["joint"], p)[shuffled] for p in parts})
    found = rank(
        [CellPredictions(n, 0, {"click": g}) for n, g in {**made, "joint": mixed}.items()], tasks,
        replicates=FAST,
    )  # fmt: skip
    figure = found.of("joint")["click"].metrics["gauc"]
    own = made["joint"]
    score = METRICS["gauc"].score(truth, own.prediction, group=user)
    assert figure.value == pytest.approx(score, abs=1e-12)
    assert found.gain["joint"].low > 0
    draws = []
    for _ in range(FAST):  # whole users, with replacement
        drawn = random.choice(np.unique(user), len(np.unique(user)))
        some = np.concatenate([np.flatnonzero(user == name) for name in drawn])
        draws.append(METRICS["gauc"].score(truth[some], own.prediction[some], group=user[some]))
    assert figure.low == pytest.approx(np.quantile(draws, 0.025), abs=0.02)
    assert figure.high == pytest.approx(np.quantile(draws, 0.975), abs=0.02)
    assert "gauc of click: 4 of 44 groups hold one class only and are left out." in found.notes
    with pytest.raises(ValueError, match="task 'click': gauc needs the group of each row"):
        rank([CellPredictions("a", 0, {"click": replace(own, group=None)})], tasks)


def test_what_is_best_at_one_has_a_figure_and_no_gain():
    tasks = TaskSet([Task(name="a", kind="binary", metrics=("auroc", "calibration", "ece"))])
    made = cells(tasks, {"separate": 0.6, "joint": 0.3})
    found = rank(made, tasks, replicates=FAST)
    joint = found.of("joint")["a"].metrics["calibration"]
    assert joint.low < joint.value < joint.high
    assert any(
        note.startswith("calibration is left out of gains for a: it is best at 1")
        for note in found.notes
    )
    without = rank(made, TaskSet([replace(tasks["a"], metrics=("auroc", "ece"))]), replicates=FAST)
    assert found.gain_metrics == without.gain_metrics


def test_resamples_without_a_value_are_dropped_and_said():
    tasks = binary("rare", "plenty")
    made = cells(tasks, {"separate": 1.0, "joint": 0.5}, rows=30)
    truth = np.zeros(30, int)
    truth[np.argsort(made[-1].predictions["rare"].prediction)[-2:]] = 1
    for name in ("separate", "joint"):
        made = changed(made, name, rare={"truth": truth})
    found = rank(made, tasks)
    note = next(note for note in found.notes if "cannot be scored" in note)
    assert "rare" in note
    assert "plenty" not in note
    assert found.of("joint")["rare"].gain.defined
    assert found.gain["joint"].defined


def test_an_interval_needs_half_of_the_replicates():
    assert interval(np.array([1.0, *[np.nan] * 6, 1.0, 2.0, 3.0])) == UNDEFINED
    kept = interval(np.array([1.0, *[np.nan] * 5, *np.linspace(0, 2, 5)]))
    assert (kept.value, kept.low, kept.high) == pytest.approx((1.0, 0.05, 1.95))
    assert interval(np.array([np.nan, 1.0, 1.0])) == UNDEFINED
    skewed = pivotal(np.array([1.0, *np.linspace(0, 10, 401)]))
    assert (skewed.value, skewed.low, skewed.high) == pytest.approx((1.0, 2 - 9.75, 2 - 0.25))


def test_means_over_some_tasks_and_with_some_replaced():
    tasks = binary("a", "b", "c")
    noise = {"separate": 1.0, "joint": {"a": 0.5, "b": 0.5, "c": 2.0}}
    found = rank(cells(tasks, noise), tasks, replicates=FAST)
    gains = {name: score.gain.value for name, score in found.of("joint").items()}
    assert gains["c"] < 0 < gains["a"]
    assert found.mean_gain("joint", ["a", "b"]).value == pytest.approx(
        (gains["a"] + gains["b"]) / 2
    )
    mixture = found.mean_gain("joint", replaced=["c"])
    assert mixture.value == pytest.approx((gains["a"] + gains["b"]) / 3)
    assert mixture.low > found.gain["joint"].low
    p = found.p_harmed("joint")
    assert p["c"] < 0.01
    assert p["a"] > 0.99


def test_differences_are_paired_and_turn_their_sign():
    tasks = binary("a", "b")
    found = rank(cells(tasks, {"separate": 1.0, "x": 0.5, "y": 0.8}), tasks, replicates=FAST)
    one, other = found.difference("x", "y"), found.difference("y", "x")
    assert one.value == pytest.approx(found.gain["x"].value - found.gain["y"].value)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    assert one.excludes_zero


def test_weights_of_labels_count():
    tasks = TaskSet([Task(name="a", kind="real", metrics=("mae",))])
    rows, truth = np.arange(4), np.zeros(4)
    guess, weight = np.array([1.0, 1.0, 5.0, 5.0]), np.array([1.0, 1.0, 0.0, 0.0])
    made = [
        CellPredictions("separate", 0, {"a": TaskPredictions(rows, rows, truth, guess, weight)})
    ]
    assert rank(made, tasks, replicates=FAST).scores[0].metrics["mae"].value == 1.0


def test_mistakes_are_named_with_strategy_seed_and_task():
    tasks = binary("a", "b")
    made = cells(tasks, {"separate": 1.0, "joint": 0.5}, rows=20)
    bad = made[0].predictions["a"].prediction.copy()
    bad[3] = np.nan
    with pytest.raises(
        ValueError, match=r"'joint', seed 0, task 'b': prediction is not finite.* 3"
    ):
        rank(changed(made, "joint", b={"prediction": bad}), tasks)
    flipped = 1 - made[0].predictions["a"].truth
    with pytest.raises(ValueError, match=r"'separate', seed 0, task 'a': truth differ from those"):
        rank(changed(made, "separate", a={"truth": flipped}), tasks)
    with pytest.raises(ValueError, match="rows differ from those"):
        rank(changed(made, "separate", a={"rows": np.arange(20) + 1}), tasks)
    with pytest.raises(ValueError, match=r"lengths \[20, 20, 20, 19\]"):
        rank(changed(made, "joint", a={"prediction": bad[:19]}), tasks)
    with pytest.raises(ValueError, match="'joint' has two cells for seed 1"):
        rank([*made, made[-1]], tasks)
    with pytest.raises(ValueError, match="'separate' predicts an unknown task 'b'"):
        rank([c for c in made if c.strategy == "separate"], binary("a"))
    with pytest.raises(ValueError, match="no metric 'aurok'; did you mean 'auroc'"):
        rank(made, TaskSet([Task(name="a", metrics=("aurok",)), Task(name="b")]))


def test_many_tasks_warn_of_flags_raised_by_chance():
    tasks = real(*(f"t{i}" for i in range(40)))
    found = rank(cells(tasks, {"separate": 1.0}, rows=10, seeds=1), tasks, replicates=FAST)
    assert any("of 40 tasks about 1 are flagged" in note for note in found.notes)
    assert "one seed" in found.notes[0]


def _tally(kind, truth, guess, classes):
    """Rows of one labelled position each."""
    if kind.name == "normals":
        truth, guess = (np.stack([one, one + 1, one * 0], 1) for one in (truth, guess))
    if kind.name == "depth":
        truth = truth + 1
    places = (100, 1) if kind.place == "token" else (100, 1, 1)
    truth, guess = (one.reshape(*places, *one.shape[1:]) for one in (truth, guess))
    return kind.tally(truth, np.ones(places, bool), guess, classes)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_measured(kind):
    classes = ("1", "2", "3") if KINDS[kind].named else ()
    tasks = TaskSet([Task(name="a", kind=kind, classes=classes)])
    random = np.random.default_rng(0)
    rows = np.arange(100)
    truth = random.normal(size=100) if kind == "real" else random.integers(0, 2, 100)
    made = []
    for strategy, size in (("separate", 1.0), ("joint", 0.3)):
        guess = np.abs(truth + size * random.random(100)) / (2 if kind == "binary" else 1) + 1e-3
        if classes:
            guess = np.eye(3)[truth] + size * random.random((100, 3))
            guess /= guess.sum(1, keepdims=True)
        if KINDS[kind].tally:
            guess, of = _tally(KINDS[kind], truth, guess, classes), np.zeros(100)
        else:
            of = truth
        found = {"a": TaskPredictions(rows, rows, of, guess)}
        made.append(CellPredictions(strategy, 0, found))
    score = rank(made, tasks, replicates=FAST).of("joint")["a"]
    assert set(score.metrics) == set(KINDS[kind].metrics)
    assert score.gain.defined or score.reason


def test_definitions_are_sentences():
    assert {"gain", "gain over metrics", "interval", "tied", "harmed"} <= set(DEFINITIONS)
    assert all(text.endswith(".") for text in DEFINITIONS.values())
