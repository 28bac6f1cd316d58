"""The kinds of task: each is one object that says all in which it differs from the others.

A kind says what its targets are, which loss and metrics it has, how wide its head is, what its
labels predict before any input, and how predictions are judged. No other module asks which kind a
task is to decide any of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.method import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]
TINY = 1e-7  # no probability and no rate counts as less when predictions are judged


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How targets of one kind are learnt and judged; the first metric is the one that ranks.

    ``labelled``: targets are numbers of classes, ``named``: of a task's own list of two or more;
    ``whole``: they are kept as whole numbers; ``standardised``: as (y − center)/scale.
    ``outputs`` maps the number of classes to the width of the head. ``prior`` maps targets [n],
    weights [n] and the number of classes to what they say before any input: class shares [C], a
    mean [1] or a rate [1]; ``bias`` maps that to the raw outputs that predict it. ``judge`` maps
    truth [n] and predictions, as users see them, to losses [n].
    """

    name: str
    loss: str
    metrics: tuple[str, ...]
    outputs: Callable[[int], int]
    prior: Callable[[Tensor, Tensor, int], Tensor]
    bias: Callable[[Tensor], Tensor]
    judge: Callable[[Array, Array], Array]
    labelled: bool = False
    named: bool = False
    whole: bool = False
    standardised: bool = False
    hints: tuple[str, ...] = ()


def _one(classes: int) -> int:  # noqa: ARG001
    return 1


def _each(classes: int) -> int:
    return classes


def _between(classes: int) -> int:
    return classes - 1


def _shares(target: Tensor, weight: Tensor, classes: int) -> Tensor:
    """Class shares [C]; half a label is added to every class, so that nothing is impossible."""
    counts = weight.new_zeros(max(classes, 2)).index_add_(0, target.long(), weight)
    return (counts + 0.5) / (counts.sum() + 0.5 * len(counts))


def _mean(target: Tensor, weight: Tensor, classes: int) -> Tensor:  # noqa: ARG001
    return ((target * weight).sum() / weight.sum().clamp(min=1e-12)).reshape(1)


def _rate(target: Tensor, weight: Tensor, classes: int) -> Tensor:  # noqa: ARG001
    """The mean rate [1], with half an event in half a row added."""
    return (((target * weight).sum() + 0.5) / (weight.sum() + 0.5)).reshape(1)


def _log_odds(prior: Tensor) -> Tensor:
    return prior[-1:].logit()


def _log(prior: Tensor) -> Tensor:
    return prior.log()


def _cumulative_log_odds(prior: Tensor) -> Tensor:
    return (1 - prior.cumsum(0)[:-1]).logit()


def _same(prior: Tensor) -> Tensor:
    return prior


def _surprise(truth: Array, found: Array) -> Array:
    shares = np.clip(found, TINY, 1 - TINY)
    losses: Array = -(truth * np.log(shares) + (1 - truth) * np.log1p(-shares))
    return losses


def _class_surprise(truth: Array, found: Array) -> Array:
    own = found[np.arange(len(truth)), truth.astype(int)]
    losses: Array = -np.log(np.clip(own, TINY, 1))
    return losses


def _squared(truth: Array, found: Array) -> Array:
    losses: Array = np.square(truth - found)
    return losses


def _half_deviance(truth: Array, found: Array) -> Array:
    rate = np.clip(found, TINY, None)
    losses: Array = truth * np.log(np.where(truth > 0, truth, 1.0) / rate) - truth + rate
    return losses


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            name="binary", loss="bce",
            metrics=("auroc", "average_precision", "accuracy", "log_loss"),
            outputs=_one, prior=_shares, bias=_log_odds, judge=_surprise, labelled=True,
            hints=("bool", "boolean", "multilabel", "binary_classification", "yes_no"),
        ),
        Kind(
            name="classes", loss="cross_entropy", metrics=("accuracy", "macro_f1", "log_loss"),
            outputs=_each, prior=_shares, bias=_log, judge=_class_surprise,
            labelled=True, named=True, whole=True,
            hints=("multiclass", "categorical", "classification", "category"),
        ),
        Kind(
            name="ordinal", loss="cumulative", metrics=("quadratic_kappa", "mae", "accuracy"),
            outputs=_between, prior=_shares, bias=_cumulative_log_odds, judge=_class_surprise,
            labelled=True, named=True, whole=True,
            hints=("ordered", "rating", "rank", "stars"),
        ),
        Kind(
            name="real", loss="squared", metrics=("rmse", "r2", "mae", "spearman"),
            outputs=_one, prior=_mean, bias=_same, judge=_squared, standardised=True,
            hints=("regression", "float", "numeric", "continuous", "number"),
        ),
        Kind(
            name="counts", loss="poisson", metrics=("poisson_deviance", "rmse", "mae"),
            outputs=_one, prior=_rate, bias=_log, judge=_half_deviance,
            hints=("count", "poisson", "integer_counts"),
        ),
    )
}  # fmt: skip


def kind_of(word: str) -> Kind:
    """The kind a user's word stands for (``regression`` is ``real``).

    Raises ``ValueError`` with the nearest valid word.
    """
    plain = word.strip().lower().replace("-", "_").replace(" ", "_")
    for kind in KINDS.values():
        if plain == kind.name or plain in kind.hints:
            return kind
    raise ValueError(f"no kind {word!r}{did_you_mean(plain, KINDS)}")
