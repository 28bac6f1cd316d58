"""Metrics: they agree with scikit-learn, and a replicate equals the rows it draws."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from plait.metrics import METRICS, Undefined, check_metrics, metric_of, replicates
from plait.metrics.groups import mixed
from plait.task import KINDS

N = 60
FLOAT32 = float(np.finfo(np.float32).eps)  # scikit-learn clips at the precision of what it gets


def kind_of_rows(kind: str, n: int, seed: int, *, ties: bool):
    """Truth and prediction of a kind; with ties, predictions take few values."""
    rng = np.random.default_rng(seed)
    coarse = (lambda x: np.round(x, 1)) if ties else (lambda x: x)
    match kind:
        case "binary":
            truth = (rng.random(n) < 0.4).astype(int)
            return truth, np.clip(coarse(0.3 * truth + 0.6 * rng.random(n)), 0, 1)
        case "classes" | "ordinal":
            truth = rng.integers(0, 4, n)
            scores = rng.random((n, 5)) + np.eye(5)[truth]  # the fifth class never occurs
            scores = coarse(scores) + 0.01
            return truth, scores / scores.sum(1, keepdims=True)
        case "counts":
            rate = rng.gamma(2.0, 2.0, n)
            return rng.poisson(rate), coarse(rate + rng.random(n)) + 0.1
    truth = rng.normal(5.0, 2.0, n)
    return coarse(truth), coarse(truth + rng.normal(0, 1.5, n))


def groups_of(n: int, seed: int):
    """Whose rows they are: few have many, some have one, some are nobody's."""
    return np.random.default_rng(seed).geometric(0.3, n) - 2


def by_group(truth, prediction, weight, group):
    """AUC of each group by scikit-learn, averaged with what its rows weigh."""
    above = below = 0.0
    for name in set(group[group >= 0].tolist()):
        own = (group == name) & (weight > 0)
        if len(set(truth[own].tolist())) == 2:
            auc = sk.roc_auc_score(truth[own], prediction[own], sample_weight=weight[own])
            above, below = above + weight[own].sum() * auc, below + weight[own].sum()
    return above / below


def binned(truth, prediction, weight):
    """Bin by bin: |mean probability − share of positives|, by what the bin's rows weigh."""
    total = 0.0
    for low in range(15):
        own = (prediction > low / 15) & (prediction <= (low + 1) / 15)
        own |= (prediction == 0) & (low == 0)
        if weight[own].sum() > 0:
            mean = np.average(prediction[own], weights=weight[own])
            share = np.average(truth[own], weights=weight[own])
            total += weight[own].sum() * abs(mean - share)
    return total / weight.sum()


def weighted_spearman(truth, prediction, weight):
    """Rows repeated as often as they weigh: what a weight means for ranks."""
    times = np.asarray(weight).astype(int)
    return stats.spearmanr(np.repeat(truth, times), np.repeat(prediction, times)).statistic


def weighted_pearson(truth, prediction, weight):
    times = weight.astype(int)
    return np.corrcoef(np.repeat(truth, times), np.repeat(prediction, times))[0, 1]


ORACLES = {
    ("binary", "auroc"): lambda y, p, w: sk.roc_auc_score(y, p, sample_weight=w),
    ("binary", "average_precision"): lambda y, p, w: sk.average_precision_score(
        y, p, sample_weight=w
    ),
    ("binary", "accuracy"): lambda y, p, w: sk.accuracy_score(y, p > 0.5, sample_weight=w),
    ("binary", "balanced_accuracy"): lambda y, p, w: sk.balanced_accuracy_score(
        y, p > 0.5, sample_weight=w
    ),
    ("binary", "f1"): lambda y, p, w: sk.f1_score(y, p > 0.5, sample_weight=w),
    ("binary", "mcc"): lambda y, p, w: sk.matthews_corrcoef(y, p > 0.5, sample_weight=w),
    ("binary", "log_loss"): lambda y, p, w: sk.log_loss(
        y, np.clip(p, FLOAT32, 1 - FLOAT32), sample_weight=w, labels=[0, 1]
    ),
    ("binary", "brier"): lambda y, p, w: sk.brier_score_loss(y, p, sample_weight=w),
    ("binary", "gauc"): by_group,
    ("binary", "calibration"): lambda y, p, w: np.average(p, weights=w) / np.average(y, weights=w),
    ("binary", "ece"): binned,
    ("classes", "accuracy"): lambda y, p, w: sk.accuracy_score(y, p.argmax(1), sample_weight=w),
    ("classes", "macro_f1"): lambda y, p, w: sk.f1_score(
        y, p.argmax(1), average="macro", sample_weight=w
    ),
    ("classes", "balanced_accuracy"): lambda y, p, w: sk.balanced_accuracy_score(
        y, p.argmax(1), sample_weight=w
    ),
    ("classes", "mcc"): lambda y, p, w: sk.matthews_corrcoef(y, p.argmax(1), sample_weight=w),
    ("classes", "log_loss"): lambda y, p, w: sk.log_loss(
        y, p, sample_weight=w, labels=list(range(5))
    ),
    ("ordinal", "quadratic_kappa"): lambda y, p, w: sk.cohen_kappa_score(
        y, p.argmax(1), weights="quadratic", sample_weight=w
    ),
    ("ordinal", "mae"): lambda y, p, w: sk.mean_absolute_error(
        y, p @ np.arange(5), sample_weight=w
    ),
    ("ordinal", "accuracy"): lambda y, p, w: sk.accuracy_score(y, p.argmax(1), sample_weight=w),
    ("real", "rmse"): lambda y, p, w: sk.root_mean_squared_error(y, p, sample_weight=w),
    ("real", "mae"): lambda y, p, w: sk.mean_absolute_error(y, p, sample_weight=w),
    ("real", "r2"): lambda y, p, w: sk.r2_score(y, p, sample_weight=w),
    ("real", "spearman"): weighted_spearman,
    ("real", "pearson"): weighted_pearson,
    ("counts", "poisson_deviance"): lambda y, p, w: sk.mean_poisson_deviance(y, p, sample_weight=w),
    ("counts", "rmse"): lambda y, p, w: sk.root_mean_squared_error(y, p, sample_weight=w),
    ("counts", "mae"): lambda y, p, w: sk.mean_absolute_error(y, p, sample_weight=w),
}  # fmt: skip


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("kind", "name"), ORACLES)
def test_agrees_with_scikit_learn(kind, name, ties, weighted):
    for seed in range(5):
        truth, prediction = kind_of_rows(kind, N, seed, ties=ties)
        weight = np.random.default_rng(seed).integers(1, 5, N).astype(float)
        weight = weight if weighted else np.ones(N)
        group = [groups_of(N, seed)] if METRICS[name].grouped else []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a class that is predicted but never true
            expected = ORACLES[kind, name](truth, prediction, weight, *group)
        given_weight = weight if weighted else None
        assert METRICS[name].score(truth, prediction, given_weight, *group) == pytest.approx(
            expected, abs=1e-9
        )


def test_fractional_weights_agree_with_scikit_learn():
    truth, prediction = kind_of_rows("binary", N, 3, ties=True)
    weight = np.random.default_rng(1).random(N)
    for name in ("auroc", "average_precision", "f1", "mcc", "log_loss"):
        expected = ORACLES["binary", name](truth, prediction, weight)
        assert METRICS[name].score(truth, prediction, weight) == pytest.approx(expected, abs=1e-9)


def test_every_metric_of_every_kind_is_covered_by_an_oracle():
    for name, metric in METRICS.items():
        for kind in metric.kinds:
            if KINDS[kind].tally is None:  # those of positions have theirs in tests/kinds
                assert (kind, name) in ORACLES
    for kind in KINDS.values():
        for name in kind.metrics:
            assert kind.name in METRICS[name].kinds


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("kind", "name"), ORACLES)
def test_a_replicate_is_the_score_of_the_rows_it_draws(kind, name, ties, weighted):
    n, metric = 25, METRICS[name]
    truth, prediction = kind_of_rows(kind, n, 7, ties=ties)
    rng = np.random.default_rng(5)
    weight = rng.random(n) if weighted else None
    group = groups_of(n, 2) if metric.grouped else None
    drawn = rng.integers(0, n, (200, n))
    # One row again and again: one class, a constant target, undefined here as in the score.
    drawn[:n] = np.arange(n)[:, None]
    counts = np.stack([np.bincount(row, minlength=n) for row in drawn])
    values = metric.replicates(truth, prediction, counts, weight, group)
    for rows, value in zip(drawn, values, strict=True):
        weights = weight[rows] if weighted else None
        groups = group[rows] if metric.grouped else None
        score = metric.score(truth[rows], prediction[rows], weights, groups)
        if isinstance(score, Undefined):
            assert np.isnan(value)
        else:
            assert value == pytest.approx(score, abs=1e-9)


def test_replicates_are_the_same_however_they_are_cut(monkeypatch):
    truth, prediction = kind_of_rows("binary", 50, 0, ties=True)
    counts = np.random.default_rng(0).integers(0, 4, (37, 50)).astype(np.uint8)
    wanted = [METRICS[name] for name in ("auroc", "average_precision", "accuracy", "log_loss")]
    whole = replicates(wanted, truth, prediction, counts)
    monkeypatch.setattr("plait.metrics.base.BLOCK", 1)
    monkeypatch.setattr("plait.metrics.base.MOST", 300)
    np.testing.assert_allclose(
        replicates(wanted, truth, prediction, np.asfortranarray(counts)), whole, rtol=1e-12
    )


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=2, max_size=30))
def test_auroc_counts_pairs(rows):
    truth = np.array([int(positive) for positive, _ in rows])
    prediction = np.array([score / 4 for _, score in rows])
    value = METRICS["auroc"].score(truth, prediction)
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a in prediction[truth == 1]
        for b in prediction[truth == 0]
    ]
    if pairs:
        assert value == pytest.approx(np.mean(pairs), abs=1e-12)
    else:
        assert value == Undefined("the rows hold one class only")


ONE_CLASS = "the rows hold one class only"


@pytest.mark.parametrize(
    ("name", "truth", "reason"),
    [
        ("auroc", [1, 1, 1], ONE_CLASS),
        ("auroc", [0, 0, 0], ONE_CLASS),
        ("average_precision", [1, 1, 1], ONE_CLASS),
        ("average_precision", [0, 0, 0], ONE_CLASS),
        ("balanced_accuracy", [1, 1, 1], ONE_CLASS),
        ("mcc", [0, 0, 0], ONE_CLASS),
        ("f1", [0, 0, 0], "no row is positive"),
        ("calibration", [0, 0, 0], "no row is positive"),
        ("macro_f1", [0, 0, 0], ONE_CLASS),
        ("quadratic_kappa", [1, 1, 1], ONE_CLASS),
        ("r2", [0.1, 0.1, 0.1], "the target is constant"),
        ("spearman", [0.1, 0.1, 0.1], "the target or the prediction is constant"),
        ("pearson", [0.1, 0.1, 0.1], "the target or the prediction is constant"),
    ],
)
def test_undefined_is_said_with_its_reason(name, truth, reason):
    assert METRICS[name].score(truth, [0.2, 0.9, 0.4]) == Undefined(reason)
    assert str(Undefined(reason)) == f"undefined: {reason}"


def _nothing(kind):
    """The tallies of two rows without a labelled position."""
    places = (2, 1) if kind.place == "token" else (2, 1, 1)
    wide = (kind.outputs(3),) if kind.outputs(3) > 1 else ()
    truth = np.zeros((*places, *(() if kind.named else wide)))
    return kind.tally(truth, np.zeros(places, bool), np.zeros((*places, *wide)), "abc")


@pytest.mark.parametrize("name", METRICS)
def test_without_rows_every_metric_is_undefined(name):
    assert METRICS[name].score([], []) == Undefined("no rows")
    inside = [KINDS[kind] for kind in METRICS[name].kinds if KINDS[kind].tally]
    given = _nothing(inside[0]) if inside else [0.1, 0.9]
    group = [[3, 3]] if METRICS[name].grouped else []
    assert METRICS[name].score([0, 1], given, [0, 0], *group) == Undefined("no rows")


def test_a_class_without_weight_does_not_count():
    assert METRICS["auroc"].score([0, 1, 1], [0.1, 0.5, 0.7], [0, 1, 1]) == Undefined(ONE_CLASS)


def test_a_constant_far_from_zero_is_still_constant():
    assert isinstance(METRICS["r2"].score([1e9 + 0.1] * 7, np.arange(7.0)), Undefined)
    truth = 1e9 + np.arange(7.0)
    assert METRICS["r2"].score(truth, truth + 1) == pytest.approx(sk.r2_score(truth, truth + 1))


def test_a_constant_prediction_tells_nothing_apart():
    assert METRICS["mcc"].score([0, 1, 1], [0.9, 0.9, 0.9], [0.1, 0.2, 0.3]) == 0.0
    assert METRICS["auroc"].score([0, 1, 1], [0.9, 0.9, 0.9]) == 0.5
    assert isinstance(METRICS["spearman"].score([1.0, 2.0], [3.0, 3.0]), Undefined)


def test_one_half_is_a_no_and_single_numbers_are_rounded():
    assert METRICS["accuracy"].score([0, 1], [0.5, 0.51]) == 1.0
    assert METRICS["quadratic_kappa"].score([0, 1, 2], [0.4, 1.2, 1.9]) == 1.0
    assert METRICS["mae"].score([0, 1, 2], [0.4, 1.2, 1.9]) == pytest.approx(0.7 / 3)


def test_a_certain_mistake_costs_the_same_in_either_precision():
    for precision in (np.float32, np.float64):
        certain = METRICS["log_loss"].score([0, 1], np.array([1.0, 1.0], precision))
        assert certain == pytest.approx(-np.log(np.finfo(np.float32).eps) / 2, rel=1e-5)


def test_a_predicted_rate_of_zero_is_no_infinite_loss():
    assert METRICS["poisson_deviance"].score([0, 3], [0.0, 3.0]) == pytest.approx(1e-6)
    assert np.isfinite(METRICS["poisson_deviance"].score([2, 3], [0.0, -1.0]))


@pytest.mark.parametrize(
    ("name", "truth", "prediction", "weight", "message"),
    [
        ("auroc", [0, 1, 1], [0.1, np.nan, 0.3], None,
         "prediction is not finite in 1 of 3 rows, the first at position 1: nan"),
        ("rmse", [0, np.inf], [1, 1], None, "truth is not finite"),
        ("rmse", [0, 1], [1, 1, 1], None, r"shape \(3,\) for 2 rows"),
        ("accuracy", [0, 3], [[0.5, 0.5], [0.1, 0.9]], None, "class 3 in the truth, 2 predicted"),
        ("log_loss", [0, 1], [0.1, 1.4], None, "position 1 is no probability: 1.4"),
        ("brier", [0, 1], [-0.1, 1.0], None, "position 0 is no probability"),
        ("ece", [0, 1], [-0.1, 1.0], None, "position 0 is no probability"),
        ("calibration", [0, 1], [0.1, 1.2], None, "position 1 is no probability"),
        ("rmse", [0, 1], [1, 1], [1, -1], "weight must be"),
        ("rmse", [0, 1], [1, 1], [1], "weight must be"),
        ("auroc", [0, 1], [[0.5, 0.5], [0.1, 0.9]], None, "one probability a row"),
    ],
)  # fmt: skip
def test_bad_figures_are_errors_not_scores(name, truth, prediction, weight, message):
    with pytest.raises(ValueError, match=message):
        METRICS[name].score(truth, prediction, weight)


def test_groups_of_one_class_and_rows_of_nobody_do_not_count():
    gauc = METRICS["gauc"]
    truth, given, group = [1, 0, 1, 1, 0, 1], [0.9, 0.2, 0.1, 0.3, 0.8, 0.6], [7, 7, 2, 2, -1, -1]
    assert gauc.score(truth, given, group=group) == 1.0
    assert gauc.score(truth, given, group=[1, 2, 3, 4, 5, 6]) == Undefined(
        "no group holds both classes"
    )
    assert gauc.score(truth, given, group=[-1] * 6) == Undefined("no group holds both classes")
    kept, both, every = mixed(np.array(truth), np.array(group), np.array([1, 1, 1, 1, 1, 0]))
    assert (kept.tolist(), both, every) == ([True, True, False, False, False, False], 1, 2)


def test_only_the_order_within_a_group_counts():
    truth, given = kind_of_rows("binary", 200, 1, ties=True)
    group = np.random.default_rng(0).integers(0, 9, 200)
    before = METRICS["gauc"].score(truth, given, group=group)
    assert METRICS["gauc"].score(truth, given / 20 + group / 10, group=group) == before
    assert METRICS["gauc"].score(truth, given, group=np.zeros(200, int)) == pytest.approx(
        METRICS["auroc"].score(truth, given), abs=1e-12
    )


def test_a_group_drawn_twice_counts_twice():
    truth = np.array([1, 0, 1, 0, 0])
    given, group = np.array([0.9, 0.1, 0.2, 0.8, 0.1]), np.array([0, 0, 1, 1, 1])
    counts = [[1, 1, 1, 1, 1], [2, 2, 1, 1, 1], [3, 3, 0, 0, 0], [0, 1, 1, 0, 0]]
    values = METRICS["gauc"].replicates(truth, given, counts, group=group)
    assert values == pytest.approx([(2 + 3 / 2) / 5, (4 + 3 / 2) / 7, 1.0, np.nan], nan_ok=True)


def test_calibration_error_agrees_with_scikit_learns_curve():
    truth, given = kind_of_rows("binary", 500, 2, ties=False)
    share, mean = calibration_curve(truth, given, n_bins=15)
    size = np.histogram(given, np.linspace(0, 1, 16))[0]
    expected = np.average(np.abs(share - mean), weights=size[size > 0])
    assert METRICS["ece"].score(truth, given) == pytest.approx(expected, abs=1e-12)
    assert METRICS["ece"].score([0, 0, 1, 1, 1], [0.6] * 5) == pytest.approx(0.0, abs=1e-12)
    assert METRICS["ece"].score([0, 0], [1.0, 1.0]) == 1.0


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (None, "gauc needs the group of each row"),
        ([1, 1, 1], "group must be one whole number for each of 2 rows"),
        ([0.5, 1.0], "group must be one whole number"),
    ],
)
def test_groups_must_be_there_and_fit(group, message):
    with pytest.raises(ValueError, match=message):
        METRICS["gauc"].score([0, 1], [0.1, 0.9], group=group)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["auroc", "gauc"], "metric 'gauc' needs group"),
        (["calibration"], "metric 'calibration' is best at 1, so that it cannot rank"),
        (["auroc", "rmse"], "does not fit kind 'binary'"),
    ],
)
def test_metrics_that_do_not_fit_a_task_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        check_metrics(names, "binary", group=False)
    check_metrics(["gauc", "calibration", "ece"], "binary", group=True)


def test_counts_must_match_the_rows():
    with pytest.raises(ValueError, match=r"counts must be \[replicates, 2 rows\]"):
        METRICS["rmse"].replicates([0, 1], [1, 1], np.ones((4, 3)))


def test_names_are_found_or_the_nearest_is_named():
    assert metric_of("auroc", "binary") is METRICS["auroc"]
    with pytest.raises(ValueError, match="no metric 'aurok'; did you mean 'auroc'"):
        metric_of("aurok", "binary")
    with pytest.raises(ValueError, match="does not fit kind 'real'; it takes: mae, rmse, r2"):
        metric_of("auroc", "real")


def test_a_definition_is_one_sentence_for_a_reader():
    for metric in METRICS.values():
        assert metric.words.endswith(".")
        assert "\n" not in metric.words
        assert 20 < len(metric.words) < 200
