"""The metrics by name: which kinds they judge, what they mean and when they are undefined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plait.method import did_you_mean
from plait.metrics import groups, positions, ranks, sums
from plait.metrics.base import Metric

_BINARY = frozenset({"binary"})
_CLASSES = frozenset({"binary", "classes"})
_NUMBERS = frozenset({"real", "counts"})
_REAL = frozenset({"real"})
_TOKENS = frozenset({"tokens"})
_MASKS = frozenset({"segmentation"})
_DEPTH = frozenset({"depth"})
_NORMALS = frozenset({"normals"})

_NO_ROWS = "no rows"
_ONE_CLASS = "the rows hold one class only"
_CONSTANT = "the target is constant"
_EITHER_CONSTANT = "the target or the prediction is constant"

_SURPRISE = sums.linear(sums.surprise)
_DISTANCE = sums.linear(sums.distance)
_STEPS = sums.linear(sums.steps)
_ERRORS = sums.linear(sums.errors)
_PRODUCTS = sums.linear(sums.products)
_DEVIANCE = sums.linear(sums.deviance)
_OUTCOMES = sums.linear(sums.outcomes)

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="auroc", higher=True, kinds=_BINARY, undefined=_ONE_CLASS,
            words="Chance that a random positive row is scored above a random negative one, "
            "ties counting half; 0.5 is guessing, 1 is perfect.",
            summary=ranks.curve, value=ranks.auroc,
        ),
        Metric(
            name="average_precision", higher=True, kinds=_BINARY, undefined=_ONE_CLASS,
            words="Precision averaged over the positive rows, each at its own score as threshold; "
            "guessing gives the share of positives, 1 is perfect.",
            summary=ranks.curve, value=ranks.average_precision,
        ),
        Metric(
            name="accuracy", higher=True, kinds=_CLASSES | {"ordinal"}, undefined=_NO_ROWS,
            words="Share of rows whose most probable class is the true one.",
            summary=sums.confusion, value=sums.accuracy,
        ),
        Metric(
            name="balanced_accuracy", higher=True, kinds=_CLASSES, undefined=_ONE_CLASS,
            words="Accuracy within each true class, averaged over the classes.",
            summary=sums.confusion, value=sums.balanced_accuracy,
        ),
        Metric(
            name="f1", higher=True, kinds=_BINARY, undefined="no row is positive",
            words="Harmonic mean of precision and recall of the positive class, "
            "with one half as the threshold.",
            summary=sums.confusion, value=sums.f1,
        ),
        Metric(
            name="macro_f1", higher=True, kinds=frozenset({"classes"}), undefined=_ONE_CLASS,
            words="F1 of each class that occurs or is predicted, averaged over these classes.",
            summary=sums.confusion, value=sums.macro_f1,
        ),
        Metric(
            name="mcc", higher=True, kinds=_CLASSES, undefined=_ONE_CLASS,
            words="Matthews correlation of true and predicted classes; "
            "0 is no better than a constant, 1 is perfect.",
            summary=sums.confusion, value=sums.mcc,
        ),
        Metric(
            name="log_loss", higher=False, kinds=_CLASSES, undefined=_NO_ROWS,
            words="Mean of −log(probability given to the true class), no probability counting as "
            "less than 1.2e-7; 0 is perfect.",
            summary=_SURPRISE, value=sums.mean(1),
        ),
        Metric(
            name="brier", higher=False, kinds=_BINARY, undefined=_NO_ROWS,
            words="Mean squared distance of the probability from what happened (0 or 1).",
            summary=_DISTANCE, value=sums.mean(1),
        ),
        Metric(
            name="gauc", higher=True, kinds=_BINARY, grouped=True,
            undefined="no group holds both classes",
            words="AUROC within each group (as a user), averaged with the group's rows as weight; "
            "groups of one class are left out.",
            summary=groups.pairs, value=groups.gauc,
        ),
        Metric(
            name="calibration", higher=None, kinds=_BINARY, undefined="no row is positive",
            words="Positives predicted (the sum of probabilities) for each one observed; "
            "1 is right, above 1 too many.",
            summary=_OUTCOMES, value=sums.calibration,
        ),
        Metric(
            name="ece", higher=False, kinds=_BINARY, undefined=_NO_ROWS,
            words="Expected calibration error: mean probability against share of positives, "
            f"apart in {sums.BINS} bins of equal width, averaged with the bin's rows as weight.",
            summary=sums.bins, value=sums.ece,
        ),
        Metric(
            name="quadratic_kappa", higher=True, kinds=frozenset({"ordinal"}),
            undefined=_ONE_CLASS,
            words="Agreement beyond chance of true and most probable class, errors counting by "
            "the square of the steps between them; 0 is chance, 1 is perfect.",
            summary=_STEPS, value=sums.quadratic_kappa,
        ),
        Metric(
            name="mae", higher=False, kinds=_NUMBERS | {"ordinal"}, undefined=_NO_ROWS,
            words="Mean absolute error in the target's units; "
            "for ordered classes, steps from the expected class number.",
            summary=_ERRORS, value=sums.mean(2),
        ),
        Metric(
            name="rmse", higher=False, kinds=_NUMBERS, undefined=_NO_ROWS,
            words="Root of the mean squared error, in the target's units.",
            summary=_ERRORS, value=sums.rmse,
        ),
        Metric(
            name="r2", higher=True, kinds=_REAL, undefined=_CONSTANT,
            words="Share of the target's variance explained; 0 is as good as its mean on these "
            "rows, 1 is perfect, below 0 is worse than the mean.",
            summary=_ERRORS, value=sums.r2,
        ),
        Metric(
            name="spearman", higher=True, kinds=_REAL, undefined=_EITHER_CONSTANT,
            words="Correlation of the ranks of target and prediction; 1 is the same order.",
            summary=ranks.mid_ranks, value=ranks.spearman,
        ),
        Metric(
            name="pearson", higher=True, kinds=_REAL, undefined=_EITHER_CONSTANT,
            words="Linear correlation of target and prediction; 1 is a straight line.",
            summary=_PRODUCTS, value=sums.pearson,
        ),
        Metric(
            name="poisson_deviance", higher=False, kinds=frozenset({"counts"}),
            undefined=_NO_ROWS,
            words="Mean Poisson deviance, 2·(y·log(y/rate) − y + rate), with rates of at least "
            f"{sums.LEAST_RATE:g}; 0 is perfect.",
            summary=_DEVIANCE, value=sums.mean(1),
        ),
        Metric(
            name="token_accuracy", higher=True, kinds=_TOKENS, undefined=_NO_ROWS,
            words="Share of tokens whose most probable class is the true one.",
            summary=positions.tallies, value=positions.token_accuracy,
        ),
        Metric(
            name="token_macro_f1", higher=True, kinds=_TOKENS, undefined=_ONE_CLASS,
            words="F1 over tokens of each class that occurs or is predicted, averaged over these "
            "classes.",
            summary=positions.tallies, value=positions.token_macro_f1,
        ),
        Metric(
            name="span_f1", higher=True, kinds=_TOKENS,
            undefined="no row has a span (classes B-… and I-…)",
            words="Harmonic mean of precision and recall of spans, right where beginning, end and "
            "class are.",
            summary=positions.tallies, value=positions.span_f1,
        ),
        Metric(
            name="miou", higher=True, kinds=_MASKS, undefined=_NO_ROWS,
            words="Intersection over union, all pixels together, of each class that occurs or is "
            "predicted, averaged over these classes.",
            summary=positions.tallies, value=positions.miou,
        ),
        Metric(
            name="pixel_accuracy", higher=True, kinds=_MASKS, undefined=_NO_ROWS,
            words="Share of pixels whose most probable class is the true one.",
            summary=positions.tallies, value=positions.pixel_accuracy,
        ),
        Metric(
            name="depth_rel", higher=False, kinds=_DEPTH, undefined=_NO_ROWS,
            words="Mean of |true − predicted| / true over pixels.",
            summary=positions.tallies, value=positions.mean(3),
        ),
        Metric(
            name="depth_abs", higher=False, kinds=_DEPTH, undefined=_NO_ROWS,
            words="Mean of |true − predicted| over pixels, in the target's units.",
            summary=positions.tallies, value=positions.mean(2),
        ),
        Metric(
            name="depth_rmse", higher=False, kinds=_DEPTH, undefined=_NO_ROWS,
            words="Root of the mean squared error over pixels, in the target's units.",
            summary=positions.tallies, value=positions.root(4),
        ),
        Metric(
            name="angle_mean", higher=False, kinds=_NORMALS, undefined=_NO_ROWS,
            words="Mean angle between true and predicted normals, in degrees.",
            summary=positions.tallies, value=positions.mean(2),
        ),
        Metric(
            name="angle_median", higher=False, kinds=_NORMALS, undefined=_NO_ROWS,
            words="Median of that angle, to a quarter of a degree.",
            summary=positions.tallies, value=positions.median_angle,
        ),
        Metric(
            name="within_11", higher=True, kinds=_NORMALS, undefined=_NO_ROWS,
            words="Share of pixels whose angle is below 11.25 degrees.",
            summary=positions.tallies, value=positions.mean(3),
        ),
        Metric(
            name="within_22", higher=True, kinds=_NORMALS, undefined=_NO_ROWS,
            words="Share of pixels whose angle is below 22.5 degrees.",
            summary=positions.tallies, value=positions.mean(4),
        ),
        Metric(
            name="within_30", higher=True, kinds=_NORMALS, undefined=_NO_ROWS,
            words="Share of pixels whose angle is below 30 degrees.",
            summary=positions.tallies, value=positions.mean(5),
        ),
        Metric(
            name="boundary_f", higher=True, kinds=frozenset({"boundaries"}),
            undefined="no pixel is a boundary",
            words="Best F over thresholds common to all images; a pixel counts where one of the "
            "other side is at most a pixel away.",
            summary=positions.tallies, value=positions.boundary_f,
        ),
    )
}  # fmt: skip


def metric_of(name: str, kind: str) -> Metric:
    """The metric of that name.

    Raises ``ValueError`` for an unknown one and for one that does not fit the kind.
    """
    if name not in METRICS:
        raise ValueError(f"no metric {name!r}{did_you_mean(name, METRICS)}")
    if kind not in METRICS[name].kinds:
        fits = [metric.name for metric in METRICS.values() if kind in metric.kinds]
        raise ValueError(f"metric {name!r} does not fit kind {kind!r}; it takes: {', '.join(fits)}")
    return METRICS[name]


def check_metrics(names: Sequence[str], kind: str, *, group: bool) -> None:
    """Refuse metrics that do not fit a task; ``group``: whether its rows have groups.

    Raises ``ValueError`` for unknown ones, those of another kind, those that need groups where
    there are none, and a first one that ranks nothing.
    """
    for place, name in enumerate(names):
        found = metric_of(name, kind)
        if found.grouped and not group:
            raise ValueError(f"metric {name!r} needs group: the column of whose row it is")
        if place == 0 and found.higher is None:
            raise ValueError(
                f"metric {name!r} is best at 1, so that it cannot rank; name another one first"
            )
