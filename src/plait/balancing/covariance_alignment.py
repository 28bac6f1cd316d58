"""Tasks count by how much of them lies in the directions that the tasks have in common.

With the inputs X [m, d] and the labels y_i [m] of task i: θ_i = Xᵀy_i [d], U_r [d, r] the first r
left singular vectors of [θ_1 … θ_T], and α_i = ‖U_rᵀθ_i‖. A task whose labels are noise has little
in common with the others, and weighs less. The weights are computed once, before training: in a
study from the encoded inputs of the training rows, elsewhere by :meth:`CovarianceAlignment.of`.

    >>> draw = torch.Generator().manual_seed(0)
    >>> x = torch.randn(200, 5, generator=draw)
    >>> clean, noise = x[:, 0], torch.randn(200, generator=draw)
    >>> found = CovarianceAlignment.of(x, {"a": clean, "b": clean, "c": noise}, rank=1)
    >>> {name: round(value, 2) for name, value in found.weights.items()}
    {'a': 1.47, 'b': 1.47, 'c': 0.06}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.checks import by_task, every
from plait.method import Card, Law, Need, Paper


@final
class CovarianceAlignment(Balancer):
    """Reweighting by singular vectors; ``rank`` r is how many directions count as common.

    ``weights`` by task name, as :meth:`of` computes them, are taken as they are. ``fit`` refuses it
    without weights, which a study computes.
    """

    card = Card(
        family="balancing",
        name="covariance_alignment",
        summary="Fixed weights by what a task's labels have in common with the others'.",
        paper=Paper(
            title="Understanding and Improving Information Transfer in Multi-Task Learning",
            authors="Wu, Sen and Zhang, Hongyang R. and Ré, Christopher",
            year=2020,
            venue="ICLR",
            url="https://arxiv.org/abs/2005.00944",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
        deviations=(
            "Labels are standardised: a task's unit is not its weight.",
            "θ_i is a mean over the rows where task i has a label, and the weights' mean is one.",
            "Of a task with classes θ_i has a row a class, and its weight is their common length.",
            "The paper's alignment (a matrix for each task) changes the network; it is not here.",
        ),
        exceptions={"training_resumes_exactly": "fit refuses it without weights made from data"},
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"weights": "every"}
    rung = Rung.LOSSES
    blind = True

    def __init__(self, *, weights: Mapping[str, float] | None = None, rank: int = 1) -> None:
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        if weights is not None and not all(value >= 0 for value in every(weights)):
            raise ValueError(f"weights must not be negative, got {dict(weights)}")
        super().__init__()
        self.weights = weights
        self.rank = rank
        self.needs_table = weights is None

    @classmethod
    def of(cls, inputs: Tensor, labels: Mapping[str, Tensor], *, rank: int) -> Self:
        """The balancer for inputs [m, d] (features of a network, or standardised columns).

        ``labels`` [m] by task, NaN where there is none. ``rank`` r from 1 to the number of tasks:
        how many directions count as common. Raises ``ValueError`` where r is out of range or a
        task's labels do not vary.
        """
        if not 1 <= rank <= len(labels):
            raise ValueError(f"rank must lie between 1 and {len(labels)} tasks, got {rank}")
        theta = {name: _theta(inputs, y, name)[None] for name, y in labels.items()}
        return cls(rank=rank).informed(theta)

    def informed(self, theta: Mapping[str, Tensor]) -> Self:
        """With the weights of these θ [k, d] by task, unless it has some."""
        if self.weights is not None:
            return self
        if self.rank > len(theta):
            raise ValueError(
                f"covariance_alignment: rank must lie between 1 and {len(theta)} tasks, got "
                f"{self.rank}"
            )
        squares = reweighting(torch.cat(list(theta.values())), self.rank).square()
        owner = torch.repeat_interleave(torch.tensor([len(rows) for rows in theta.values()]))
        found = squares.new_zeros(len(theta)).index_add(0, owner, squares).sqrt()
        weights = dict(zip(theta, (found / found.mean()).tolist(), strict=True))
        return type(self)(weights=weights, rank=self.rank)

    def forward(self, s: Signals) -> Tensor:
        """α, [t]."""
        return by_task("weights", 1.0 if self.weights is None else self.weights, s)


def reweighting(theta: Tensor, rank: int) -> Tensor:
    """‖U_rᵀθ_i‖ [T] for rows θ [T, d], with U_r their first r right singular vectors."""
    _, _, directions = torch.linalg.svd(theta.double(), full_matrices=False)
    found: Tensor = (theta.double() @ directions[:rank].T).norm(dim=1)
    return found


def similarity(one: Tensor, two: Tensor, *, keep: float = 0.99) -> float:
    """How alike the covariances of two tasks' inputs [m, d] are, in [0, 1].

    With XᵀX ≈ U D Uᵀ of the rank that holds ``keep`` of the singular values' sum, and R = U D^½:
    ‖R_1ᵀR_2‖_F/(‖R_1‖_F ‖R_2‖_F). Shared training helps more where it is high.
    """
    roots = [_root(x.double(), keep) for x in (one, two)]
    return float((roots[0].T @ roots[1]).norm() / (roots[0].norm() * roots[1].norm()))


def _root(x: Tensor, keep: float) -> Tensor:
    values, vectors = torch.linalg.eigh(x.T @ x)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    rank = int((values.cumsum(0) < keep * values.sum()).sum()) + 1
    root: Tensor = vectors[:, :rank] * values[:rank].sqrt()
    return root


def _theta(inputs: Tensor, labels: Tensor, name: str) -> Tensor:
    there = labels.isfinite()
    y = labels[there].double()
    deviation = y.std(correction=0) if len(y) else torch.zeros(())
    if not deviation > 0:
        raise ValueError(f"the labels of task {name!r} do not vary; leave the task out")
    return inputs[there].double().T @ ((y - y.mean()) / (deviation * len(y)))
