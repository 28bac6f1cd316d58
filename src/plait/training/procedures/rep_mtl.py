"""Tasks are kept apart, and rows aligned, by what each task asks of the shared representation.

With the shared features Z [B, C] and the saliencies S_t = ∂L_t/∂Z [B, C]: the regulation is the
mean over rows of the entropy −Σ_t p_t log p_t, where p_t = |Ŝ_t|/Σ_k |Ŝ_k| and Ŝ_t [B] is the mean
of S_t over the channels. The alignment compares M_t[b] = s_t s_tᵀ [C, C] of row b with its anchor
Â_b = A_b A_bᵀ, A_b [C, T] all of the row's saliencies; both flattened to unit length, z_t and z_a:
mean over b and t of −log(exp(z_a[b]·z_t[b]/τ)/Σ_{k≠b} exp(z_a[b]·z_a[k]/τ)). To the losses is added
regulation·(the first) + alignment·(the second), whatever the balancer makes of the losses.

    >>> one = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])  # one task is active at the row
    >>> float(entropy(one)) == 0, round(float(entropy(torch.ones(1, 2, 2))), 4)  # log 2
    (True, 0.6931)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Signals
from plait.batch import Batch
from plait.method import Card, Law, Need, Paper, resolve
from plait.networks import Outputs
from plait.training.measuring import total
from plait.training.procedures.base import Problem, Procedure


@final
@dataclass(frozen=True, kw_only=True)
class RepMtl(Procedure):
    """Regularises the tasks' saliencies at the shared features, around any balancer.

    Needs a network whose tasks read one shared representation. With micro-batches a row's negatives
    are those of its own piece; a row that has none is left out of the alignment.
    """

    regulation: float = 0.9
    alignment: float = 0.9
    temperature: float = 0.5

    card = Card(
        family="procedure",
        name="rep_mtl",
        summary="Regularises what each task asks of the shared representation.",
        paper=Paper(
            title="Rep-MTL: Unleashing the Power of Representation-level Task Saliency for "
            "Multi-Task Learning",
            authors="Wang, Zedong and Li, Siyuan and Xu, Dan",
            year=2025,
            venue="ICCV",
            url="https://arxiv.org/abs/2507.21049",
        ),
        needs=frozenset({Need.BACKWARD, Need.DOUBLE_BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT}),
        deviations=(
            "The temperature of the alignment is not stated in the paper; it is 0.5 here.",
            "The alignment is a mean over the tasks of a row, which the paper leaves open.",
            "Losses are not log-transformed beforehand, as in the paper's experiments.",
        ),
    )

    def __post_init__(self) -> None:
        if self.regulation < 0 or self.alignment < 0 or not self.temperature > 0:
            raise ValueError(
                "regulation and alignment must not be negative, temperature must be positive; got "
                f"{self.regulation}, {self.alignment}, {self.temperature}"
            )

    def gradients(self, problem: Problem, balancer: Balancer) -> Signals:
        """Fill the gradients of the balanced losses and of the two terms."""
        usual: Procedure = resolve("procedure", "plain")
        return usual.gradients(_Salient.of(problem, self), balancer)

    def terms(self, saliency: Tensor, rows: float) -> Tensor:
        """The two terms of a piece, saliency [B, t, C]; ``rows`` of the whole batch."""
        value = self.regulation * entropy(saliency)
        if self.alignment > 0:
            value = value + self.alignment * alignment(saliency, self.temperature)
        return value / rows


class _Salient(Problem):
    """A problem whose penalties include the two terms."""

    method: RepMtl

    @classmethod
    def of(cls, problem: Problem, method: RepMtl) -> _Salient:
        batch = problem.batch.only(set(problem.tasks))
        found = cls(problem.ground, batch, problem.step, part=problem.part)
        found.method = method
        return found

    def cut(self, pieces: int) -> list[Problem]:
        """Parts, with the terms of their own rows."""
        return [_Salient.of(part, self.method) for part in super().cut(pieces)]

    def penalty(self, outputs: Outputs, piece: Batch) -> Tensor | None:
        """The network's penalties and the two terms, by the piece's share."""
        value = super().penalty(outputs, piece)
        if not torch.is_grad_enabled() or len(self.tasks) < 2:
            return value
        features = _shared(outputs)
        losses = total(piece, outputs, self.units).value
        if not losses.requires_grad:
            return value
        found = [
            torch.autograd.grad(loss, features, create_graph=True, allow_unused=True)[0]
            for loss in losses
        ]
        each = torch.stack([torch.zeros_like(features) if s is None else s for s in found], 1)
        terms = self.method.terms(each, self.labelled)
        return terms if value is None else value + terms

    @property
    def labelled(self) -> float:
        """The rows of the whole batch that have a label of a task present."""
        batch = self.batch.only(set(self.tasks))
        rows = [labels.rows.flatten() for labels in batch.labels.values()]
        count = torch.tensor(float(len(torch.unique(torch.cat(rows))) if rows else 0))
        return max(1.0, float(self.ground.total(count.to(self.ground.device))))


def entropy(saliency: Tensor) -> Tensor:
    """Σ_rows −Σ_t p_t log p_t for saliencies [B, t, C]; a row without any counts nothing."""
    size = saliency.mean(2).abs()
    whole = size.sum(1, keepdim=True)
    share = size / torch.where(whole > 0, whole, 1.0)
    return -(share * share.clamp(min=1e-12).log()).sum()


def alignment(saliency: Tensor, temperature: float) -> Tensor:
    """Σ_rows of the contrast between a row's tasks and its anchor, saliencies [B, t, C].

    The sum runs over rows with a saliency, and is 0 where there are fewer than two of them.
    """
    lengths = saliency.detach().norm(dim=2)
    rows = saliency[lengths.sum(1) > 0]
    if len(rows) < 2:
        return saliency.sum() * 0.0
    there = rows.detach().norm(dim=2) > 0
    inner = rows @ rows.transpose(1, 2)  # AᵀA of every row, [B, t, t]: ‖AᵀA‖ = ‖AAᵀ‖
    size = inner.flatten(1).norm(dim=1)
    square = torch.where(there, inner.diagonal(dim1=1, dim2=2), 1.0)
    positive = inner.square().sum(1) / square / size[:, None]  # ‖Aᵀs‖²/‖s‖²/‖AAᵀ‖
    count = there.sum(1)
    mean = torch.where(there, positive, 0.0).sum(1) / count
    others = _anchors(rows) / size[:, None] / size
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    others = (others / temperature).masked_fill(itself, -torch.inf)
    found: Tensor = (others.logsumexp(1) - mean / temperature).sum()
    return found


def _anchors(rows: Tensor) -> Tensor:
    """⟨Â_b, Â_k⟩ of all pairs of rows, [B, B], by the smaller of two products."""
    count, tasks, width = rows.shape
    if width * width <= count * tasks * tasks:
        flat = (rows.transpose(1, 2) @ rows).flatten(1)
        return flat @ flat.T
    stacked = rows.flatten(0, 1)
    products = (stacked @ stacked.T).square().view(count, tasks, count, tasks)
    return products.sum((1, 3))


def _shared(outputs: Outputs) -> Tensor:
    """The features [B, C] that all heads read; ``ValueError`` where each reads its own."""
    found = {id(f.values): f for f in outputs.features.values()}
    one = next(iter(found.values()))
    if len(found) > 1 or one.rows is None:
        raise ValueError(
            "rep_mtl needs one representation that all tasks read, and in this network tasks read "
            "features of their own; use `sharing: hard`"
        )
    return one.values
