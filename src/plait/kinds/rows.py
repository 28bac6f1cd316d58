"""Kinds with one target a row: binary, classes, ordinal, real and counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plait.kinds.base import Array, Kind

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-7  # no probability and no rate counts as less when predictions are judged


def one(classes: int) -> int:  # noqa: ARG001
    return 1


def each(classes: int) -> int:
    return classes


def _between(classes: int) -> int:
    return classes - 1


def shares(target: Tensor, weight: Tensor, classes: int) -> Tensor:
    """Class shares [C]; half a label is added to every class, so that nothing is impossible."""
    counts = weight.new_zeros(max(classes, 2)).index_add_(0, target.long(), weight)
    return (counts + 0.5) / (counts.sum() + 0.5 * len(counts))


def mean(target: Tensor, weight: Tensor, classes: int) -> Tensor:  # noqa: ARG001
    return ((target * weight).sum() / weight.sum().clamp(min=1e-12)).reshape(1)


def _rate(target: Tensor, weight: Tensor, classes: int) -> Tensor:  # noqa: ARG001
    """The mean rate [1], with half an event in half a row added."""
    return (((target * weight).sum() + 0.5) / (weight.sum() + 0.5)).reshape(1)


def log_odds(prior: Tensor) -> Tensor:
    return prior[-1:].logit()


def log_shares(prior: Tensor) -> Tensor:
    return prior.log()


def _cumulative_log_odds(prior: Tensor) -> Tensor:
    return (1 - prior.cumsum(0)[:-1]).logit()


def same(prior: Tensor) -> Tensor:
    return prior


def _surprise(truth: Array, found: Array) -> Array:
    shares = np.clip(found, TINY, 1 - TINY)
    losses: Array = -(truth * np.log(shares) + (1 - truth) * np.log1p(-shares))
    return losses


def class_surprise(truth: Array, found: Array) -> Array:
    own = found[np.arange(len(truth)), truth.astype(int)]
    losses: Array = -np.log(np.clip(own, TINY, 1))
    return losses


def squared(truth: Array, found: Array) -> Array:
    losses: Array = np.square(truth - found)
    return losses


def _half_deviance(truth: Array, found: Array) -> Array:
    rate = np.clip(found, TINY, None)
    losses: Array = truth * np.log(np.where(truth > 0, truth, 1.0) / rate) - truth + rate
    return losses


ROWS = (
    Kind(
        name="binary", loss="bce",
        metrics=("auroc", "average_precision", "accuracy", "log_loss"),
        outputs=one, prior=shares, bias=log_odds, judge=_surprise, labelled=True,
        hints=("bool", "boolean", "multilabel", "binary_classification", "yes_no"),
    ),
    Kind(
        name="classes", loss="cross_entropy", metrics=("accuracy", "macro_f1", "log_loss"),
        outputs=each, prior=shares, bias=log_shares, judge=class_surprise,
        labelled=True, named=True, whole=True,
        hints=("multiclass", "categorical", "classification", "category"),
    ),
    Kind(
        name="ordinal", loss="cumulative", metrics=("quadratic_kappa", "mae", "accuracy"),
        outputs=_between, prior=shares, bias=_cumulative_log_odds, judge=class_surprise,
        labelled=True, named=True, whole=True,
        hints=("ordered", "rating", "rank", "stars"),
    ),
    Kind(
        name="real", loss="squared", losses=("absolute", "huber"),
        metrics=("rmse", "r2", "mae", "spearman"),
        outputs=one, prior=mean, bias=same, judge=squared, standardised=True,
        hints=("regression", "float", "numeric", "continuous", "number"),
    ),
    Kind(
        name="counts", loss="poisson", metrics=("poisson_deviance", "rmse", "mae"),
        outputs=one, prior=_rate, bias=log_shares, judge=_half_deviance,
        hints=("count", "poisson", "integer_counts"),
    ),
)  # fmt: skip
