"""What a merge is tuned for: losses of rows of a task, as the network on the bench sees them.

An objective takes a task and numbers of its rows and gives one number, with graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from plait.losses import LOSSES
from plait.merging.bench import Bench
from plait.merging.pool import Array

Objective = Callable[[str, Array], Tensor]

# Losses whose predictions are probabilities of finitely many classes.
CLASSED = frozenset({"bce", "cross_entropy", "cumulative", "balanced_bce"})


def entropy(bench: Bench) -> Objective:
    """The mean entropy of the predicted classes."""

    def objective(task: str, rows: Array) -> Tensor:
        return entropies(bench.losses[task], bench.run(task, rows).raw).mean()

    return objective


def supervised(bench: Bench) -> Objective:
    """The mean of the task's own loss."""

    def objective(task: str, rows: Array) -> Tensor:
        return bench.loss(task, rows, bench.run(task, rows)).mean()

    return objective


def distance(
    bench: Bench, targets: Mapping[str, Tensor], norm: Literal["l1", "l2"] = "l1"
) -> Objective:
    """The mean distance of features to targets [rows of the task, width], entry by entry."""

    def objective(task: str, rows: Array) -> Tensor:
        wanted = targets[task][torch.from_numpy(rows)]
        found = bench.run(task, rows).features
        return (F.l1_loss if norm == "l1" else F.mse_loss)(found, wanted.to(found))

    return objective


def entropies(loss: str, raw: Tensor) -> Tensor:
    """The entropy of each predicted distribution over classes, in nats. [N]

    ``raw`` [N, outputs] are the numbers of a head that is trained by ``loss``.
    """
    if loss == "cross_entropy":
        logs = raw.log_softmax(1)
        return -(logs.exp() * logs).sum(1)
    if LOSSES[loss].predict(raw[:0]).ndim == 1:
        shares = torch.cat([raw, -raw], 1)  # a probability and its complement
        return -(shares.sigmoid() * F.logsigmoid(shares)).sum(1)
    shares = LOSSES[loss].predict(raw)
    return -torch.xlogy(shares, shares).sum(1)


def factors(loss: str, raw: Tensor) -> Tensor:
    """Vectors a_k [N, K, outputs] with Σ_k a_k a_kᵀ the Fisher information of the head's numbers.

    So the Fisher information of weights is Σ_k (∂ a_kᵀraw/∂θ)², a_k held fixed; exactly, without
    drawing labels. Squared and absolute errors count as those of a Gaussian of variance 1.
    """
    raw = raw.detach()
    if loss == "cross_entropy":
        shares = raw.softmax(1)
        one = torch.eye(raw.shape[1], dtype=raw.dtype, device=raw.device)
        return shares.sqrt().unsqueeze(2) * (one - shares.unsqueeze(1))
    if loss in ("bce", "balanced_bce", "cumulative"):
        spread = (raw.sigmoid() * (-raw).sigmoid()).sqrt()
        return torch.diag_embed(spread)
    if loss == "poisson":
        return torch.diag_embed((raw / 2).exp())
    return torch.diag_embed(torch.ones_like(raw))
