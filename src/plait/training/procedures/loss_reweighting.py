"""Rows weigh by their losses as they are now: what a task has learnt already counts less.

Over the records b of one task in the batch, ℓ_b the loss [N]: h_b = 2δ(ℓ_b − min ℓ)/(max ℓ − min ℓ)
− δ in [−δ, δ], a shape f, and weights w = softmax(f(h)/r), [N]. The task's loss is Σ_b w_b ℓ_b in
place of the mean; a balancer then sees tasks as ever. Shapes: ``linear_upper`` min(h + δ, δ),
``quadratic`` 1 − h²/δ², ``extremes`` |h|, ``upper`` (h + δ)/2.

The weights need one more forward, without gradients. With labels that weigh v_b, w is
v∘exp(f/r) over its sum.

    >>> LossReweighting(temperature=0.5).settings()["shape"]
    'linear_upper'
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Signals
from plait.batch import Batch
from plait.method import Card, Law, Method, Need, Paper, resolve
from plait.training.procedures.base import Problem, Procedure

GUARD = 1e-6  # losses nearer to each other than this weigh the same


@final
@dataclass(frozen=True, kw_only=True)
class LossReweighting(Procedure):
    """Weights for rows by their losses, inside each task, around any procedure and balancer.

    ``shape`` is ``"linear_upper"``, ``"quadratic"``, ``"extremes"`` or ``"upper"``; ``delta`` δ
    and ``temperature`` r > 0; for the first ``warm_up`` steps every row counts the same.
    """

    shape: Literal["linear_upper", "quadratic", "extremes", "upper"] = "linear_upper"
    delta: float = 1.0
    temperature: float = 1.0
    warm_up: int = 1000
    procedure: Method | str = "plain"

    parts: ClassVar[Mapping[str, str]] = {"procedure": "procedure"}
    card = Card(
        family="procedure",
        name="loss_reweighting",
        summary="Weighs the rows of each task by their losses.",
        paper=Paper(
            title="Dynamic Loss-Based Sample Reweighting for Improved Large Language Model "
            "Pretraining",
            authors="Sow, Daouda and Woisetschläger, Herbert and Bulusu, Saikiran and "
            "Wang, Shiqiang and Jacobsen, Hans-Arno and Liang, Yingbin",
            year=2025,
            venue="ICLR",
            url="https://arxiv.org/abs/2502.06733",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "Weights are made inside each task; with one task that is the paper's rule.",
            "The authors' trainer also multiplies by a row's share of the tokens.",
            "Losses that are all alike weigh the same; the authors' formula leaves its range.",
        ),
    )

    def __post_init__(self) -> None:
        shapes = ("linear_upper", "quadratic", "extremes", "upper")
        if self.shape not in shapes:
            raise ValueError(f"shape must be one of {', '.join(shapes)}, got {self.shape!r}")
        if not (self.delta > 0 and self.temperature > 0):
            raise ValueError(
                f"delta and temperature must be positive, got {self.delta}, {self.temperature}"
            )

    def gradients(self, problem: Problem, balancer: Balancer) -> Signals:
        """Fill the gradients; the losses told are the weighted ones.

        A balancer with a second look is told the plain ones, because it is shown those again.
        """
        inner: Procedure = resolve("procedure", self.procedure)
        if problem.step < self.warm_up:
            return inner.gradients(problem, balancer)
        batch = self.reweighted(problem)
        weighed = Problem(problem.ground, batch, problem.step, part=problem.part)
        signals = inner.gradients(weighed, balancer)
        return replace(signals, losses=problem.measure()) if balancer.second_look else signals

    @torch.no_grad()
    def reweighted(self, problem: Problem) -> Batch:
        """The step's batch, its labels weighted; a task's weights keep their sum."""
        batch = problem.batch.only(set(problem.tasks))
        loss, weight, place = _records(problem, batch)
        known = weight > 0
        low = -_highest(problem, -loss, place, known)
        spread = _highest(problem, loss, place, known) - low
        height = 2 * self.delta * (loss - low[place]) / spread[place] - self.delta
        value = self._shaped(height) / self.temperature
        value = value - _highest(problem, value, place, known)[place]
        rough = torch.where(known, weight * value.exp(), 0.0)
        factor = _sums(problem, weight, place) / _sums(problem, rough, place)
        uneven = (spread > GUARD) & factor.isfinite()
        found = torch.where(uneven[place], rough * factor[place], weight).to(batch.ids.device)
        sizes = [len(labels) for labels in batch.labels.values()]
        parts = zip(batch.labels.items(), found.split(sizes), strict=True)  # type: ignore[no-untyped-call]
        return replace(batch, labels={key: replace(old, weight=new) for (key, old), new in parts})

    def _shaped(self, height: Tensor) -> Tensor:
        """f(h), [N]."""
        match self.shape:
            case "linear_upper":
                return (height + self.delta).clamp(max=self.delta)
            case "quadratic":
                return 1 - (height / self.delta).square()
            case "extremes":
                return height.abs()
        return (height + self.delta) / 2


def _records(problem: Problem, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, the weight and the task's place of every record of the batch, [N]."""
    device, starts, count = problem.ground.device, {}, 0
    for key, labels in batch.labels.items():
        starts[key] = count
        count += len(labels)
    value = torch.zeros(count, device=device)
    place = torch.zeros(count, dtype=torch.long, device=device)
    start, number = 0, 0
    with problem.kept_buffers():
        for rows in batch.split(problem.ground.micro_batches):
            where = []
            for key, labels in batch.labels.items():
                here = (labels.rows >= start) & (labels.rows < start + len(rows))
                here = here if here.ndim == 1 else here.all(1)
                where.append(here.nonzero()[:, 0] + starts[key])
            start += len(rows)
            if not rows.labels:
                continue
            found, task = problem.records(number)
            number += 1
            index = torch.cat(where).to(device)
            value = value.to(found.dtype).index_copy(0, index, found)
            place = place.index_copy(0, index, task)
    weights = [
        torch.ones(len(labels)) if labels.weight is None else labels.weight
        for labels in batch.labels.values()
    ]
    weight = torch.cat(weights).to(value)
    return value / torch.where(weight > 0, weight, 1.0), weight, place


def _sums(problem: Problem, value: Tensor, place: Tensor) -> Tensor:
    """The sum over each task's records [T], those of other processes included."""
    count = len(problem.ground.layout.names)
    return problem.ground.total(value.new_zeros(count).index_add(0, place, value))


def _highest(problem: Problem, value: Tensor, place: Tensor, known: Tensor) -> Tensor:
    """The largest value of each task's records [T], those of other processes included."""
    ground = problem.ground
    bottom = torch.where(known, value, -torch.inf)
    found = value.new_full((len(ground.layout.names),), -torch.inf)
    found = found.scatter_reduce(0, place, bottom, "amax")
    if ground.processes is None:
        return found
    rows = found.new_zeros(ground.processes.size, len(found))
    rows[ground.processes.rank] = found
    return ground.total(rows).amax(0)
