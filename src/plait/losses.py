"""The losses by name, and what a head's raw outputs predict; their kinds are in :mod:`plait.kinds`.

Every loss is non-negative with minimum 0 where the data allow it, so that methods which take its
logarithm (FAMO, geometric means) can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from plait.batch import Labels
from plait.kinds import check_loss


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss.

    ``per_row`` maps (raw [N, outputs], target [N]) to [N], ``predict`` raw to what users see: a
    probability [N], class probabilities [N, C], a (standardised) mean [N] or a rate [N].
    ``gaussian`` marks squared errors, whose uncertainty weight carries the factor one half. Where
    it is ``balanced``, the positive positions of a record weigh as much as the negative ones.
    """

    name: str
    per_row: Callable[[Tensor, Tensor], Tensor]
    predict: Callable[[Tensor], Tensor]
    gaussian: bool = False
    balanced: bool = False

    def per_record(self, raw: Tensor, labels: Labels) -> Tensor:
        """The loss of each record [N]: of its target, or the sum over its valid positions.

        ``raw`` is [N, outputs], or [N, ..., outputs] where positions are labelled; it may have
        more of them than the labels.
        """
        if labels.valid is None:
            return self.per_row(raw, labels.target)
        valid = labels.valid
        cut = (slice(None), *(slice(size) for size in valid.shape[1:]))
        value = self.per_row(raw[cut][valid], labels.target[valid])
        record = valid.nonzero()[:, 0]
        if self.balanced:
            value = value * _balance(labels.target[valid] > 0, record, len(valid)).to(value.dtype)
        return value.new_zeros(len(valid)).index_add(0, record, value)

    def divergence(self, raw: Tensor, teacher: Tensor) -> Tensor:
        """How much else the raw outputs [N, outputs] say than a teacher's do, for each record [N].

        The Kullback-Leibler divergence of their distributions; of numbers, the loss with the
        teacher's prediction as the target.
        """
        if self.per_row is _cross_entropy:
            return F.kl_div(
                raw.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True
            ).sum(1)
        if self.per_row in (_bce, _cumulative):
            said = teacher.sigmoid()
            cross, own = (
                F.binary_cross_entropy_with_logits(each, said, reduction="none")
                for each in (raw, teacher)
            )
            return (cross - own).sum(1)
        return self.per_row(raw, self.predict(teacher))


def _balance(positive: Tensor, record: Tensor, records: int) -> Tensor:
    """n/2n₊ for positive positions of a record with n, n/2n₋ for the others. [M]"""
    ones = torch.ones(len(record), dtype=torch.float64, device=record.device)
    zero = ones.new_zeros(records)
    count = zero.index_add(0, record, ones)[record]
    own = zero.index_add(0, record, positive.double())[record]
    return count / (2 * torch.where(positive, own, count - own))


def _bce(raw: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(raw[:, 0], target.to(raw.dtype), reduction="none")


def _probability(raw: Tensor) -> Tensor:
    return torch.sigmoid(raw[:, 0])


def _cross_entropy(raw: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(raw, target.long(), reduction="none")


def _probabilities(raw: Tensor) -> Tensor:
    return raw.softmax(1)


def _cumulative(raw: Tensor, target: Tensor) -> Tensor:
    thresholds = torch.arange(raw.shape[1], device=raw.device)
    above = (target.long()[:, None] > thresholds).to(raw.dtype)
    return F.binary_cross_entropy_with_logits(raw, above, reduction="none").sum(1)


def _between_thresholds(raw: Tensor) -> Tensor:
    # P(y > k) must not increase with k; separate thresholds may cross, so they are made monotone.
    above = torch.cummin(torch.sigmoid(raw), dim=1).values
    edge = above[:, :1]
    padded = torch.cat([torch.ones_like(edge), above, torch.zeros_like(edge)], dim=1)
    return padded[:, :-1] - padded[:, 1:]


def _squared(raw: Tensor, target: Tensor) -> Tensor:
    return (raw[:, 0] - target.to(raw.dtype)).square()


def _absolute(raw: Tensor, target: Tensor) -> Tensor:
    return (raw[:, 0] - target.to(raw.dtype)).abs()


def _huber(raw: Tensor, target: Tensor) -> Tensor:
    return F.huber_loss(raw[:, 0], target.to(raw.dtype), reduction="none")


def _mean(raw: Tensor) -> Tensor:
    return raw[:, 0]


def _poisson(raw: Tensor, target: Tensor) -> Tensor:
    # Half the deviance: y log(y/μ) − (y − μ) with raw = log μ; zero at a perfect fit.
    log_rate, y = raw[:, 0], target.to(raw.dtype)
    return torch.xlogy(y, y) - y * log_rate - y + log_rate.exp()


def _rate(raw: Tensor) -> Tensor:
    return raw[:, 0].exp()


def _log_ratio(raw: Tensor, target: Tensor) -> Tensor:
    return (raw[:, 0] - target.to(raw.dtype).log()).abs()


def _depth_error(raw: Tensor, target: Tensor) -> Tensor:
    return (raw[:, 0].exp() - target.to(raw.dtype)).abs()


def _cosine(raw: Tensor, target: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(raw, target.to(raw.dtype), dim=1)


def _unit(raw: Tensor) -> Tensor:
    return F.normalize(raw, dim=1)


LOSSES: Mapping[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss(name="bce", per_row=_bce, predict=_probability),
        Loss(name="cross_entropy", per_row=_cross_entropy, predict=_probabilities),
        Loss(name="cumulative", per_row=_cumulative, predict=_between_thresholds),
        Loss(name="squared", per_row=_squared, predict=_mean, gaussian=True),
        Loss(name="absolute", per_row=_absolute, predict=_mean),
        Loss(name="huber", per_row=_huber, predict=_mean),
        Loss(name="log_depth", per_row=_log_ratio, predict=_rate),
        Loss(name="absolute_depth", per_row=_depth_error, predict=_rate),
        Loss(name="cosine", per_row=_cosine, predict=_unit),
        Loss(name="balanced_bce", per_row=_bce, predict=_probability, balanced=True),
        Loss(name="poisson", per_row=_poisson, predict=_rate),
    )
}


def loss_of(name: str, kind: str) -> Loss:
    """The loss of that name.

    Raises ``ValueError`` for an unknown one and for one that does not fit the kind.
    """
    check_loss(name, kind)
    return LOSSES[name]
