"""Losses per row, and the way from a head's raw outputs to a prediction.

Every loss is non-negative with minimum 0 where the data allow it, so that methods which take its
logarithm (FAMO, geometric means) can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from plait.method import did_you_mean


@dataclass(frozen=True)
class Loss:
    """A loss for some kinds.

    ``per_row``: (raw [N, outputs], target [N]) → [N]. ``predict``: raw → what users see: a
    probability [N], class probabilities [N, C], a (standardised) mean [N] or a rate [N].
    ``gaussian`` marks squared errors, whose uncertainty weight carries the factor one half.
    """

    name: str
    kinds: frozenset[str]
    per_row: Callable[[Tensor, Tensor], Tensor]
    predict: Callable[[Tensor], Tensor]
    gaussian: bool = False


def _bce(raw: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(raw[:, 0], target.to(raw.dtype), reduction="none")


def _cross_entropy(raw: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(raw, target.long(), reduction="none")


def _cumulative(raw: Tensor, target: Tensor) -> Tensor:
    thresholds = torch.arange(raw.shape[1], device=raw.device)
    above = (target.long()[:, None] > thresholds).to(raw.dtype)
    return F.binary_cross_entropy_with_logits(raw, above, reduction="none").sum(1)


def _cumulative_predict(raw: Tensor) -> Tensor:
    # P(y > k) must not increase with k; separate thresholds may cross, so they are made monotone.
    above = torch.cummin(torch.sigmoid(raw), dim=1).values
    edge = above[:, :1]
    padded = torch.cat([torch.ones_like(edge), above, torch.zeros_like(edge)], dim=1)
    return padded[:, :-1] - padded[:, 1:]


def _poisson(raw: Tensor, target: Tensor) -> Tensor:
    # Half the deviance: y log(y/μ) − (y − μ) with raw = log μ; zero at a perfect fit.
    log_rate, y = raw[:, 0], target.to(raw.dtype)
    return torch.xlogy(y, y) - y * log_rate - y + log_rate.exp()


def _mean(raw: Tensor) -> Tensor:
    return raw[:, 0]


LOSSES: Mapping[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("bce", frozenset({"binary"}), _bce, lambda raw: torch.sigmoid(raw[:, 0])),
        Loss("cross_entropy", frozenset({"classes"}), _cross_entropy, lambda raw: raw.softmax(1)),
        Loss("cumulative", frozenset({"ordinal"}), _cumulative, _cumulative_predict),
        Loss(
            "squared", frozenset({"real"}),
            lambda raw, y: (raw[:, 0] - y.to(raw.dtype)).square(), _mean, gaussian=True,
        ),
        Loss(
            "absolute", frozenset({"real"}),
            lambda raw, y: (raw[:, 0] - y.to(raw.dtype)).abs(), _mean,
        ),
        Loss(
            "huber", frozenset({"real"}),
            lambda raw, y: F.huber_loss(raw[:, 0], y.to(raw.dtype), reduction="none"), _mean,
        ),
        Loss("poisson", frozenset({"counts"}), _poisson, lambda raw: raw[:, 0].exp()),
    )
}  # fmt: skip


def loss_of(name: str, kind: str) -> Loss:
    """The loss of that name; ``ValueError`` where there is none or it does not fit the kind."""
    if name not in LOSSES:
        raise ValueError(f"no loss {name!r}{did_you_mean(name, LOSSES)}")
    if kind not in LOSSES[name].kinds:
        fits = [loss.name for loss in LOSSES.values() if kind in loss.kinds]
        raise ValueError(f"loss {name!r} does not fit kind {kind!r}; it takes: {', '.join(fits)}")
    return LOSSES[name]
