"""Self positioning: turn and stretch the sum of task vectors on spheres, by the tasks' losses.

    V_1 = δ_1,   V_k = [sin(p ω) V_{k−1} + sin(q ω) δ_k] / sin ω
    p = ā_{k−1}/(ā_{k−1} + a_k) = 1 − q
    θ = θ₀ + λ V_M,   (a, λ) = argmin Σ_t mean_rows loss_t(x, y; θ) + μ λ

with δ_m = θ_m − θ₀ over the whole model, ω the angle between V_{k−1} and δ_k, a_m > 0 a weight for
each model, ā_{k−1} the mean of a_1 … a_{k−1}, and λ ≥ 0. Only a and λ are learned, on a few
labelled rows. Where ω is no angle to turn by, V_k lies on the line. For three models and more the
result depends on their order. Where the validation loss is no better for it, the start, equal
weights and λ = ``start``, is kept.

>>> import numpy as np, torch
>>> from plait.merging.base import Have
>>> from plait.merging.modules import ModuleBench
>>> from plait.merging.pool import Pool
>>> head, rows = torch.nn.Identity(), torch.ones(8, 2)
>>> bench = ModuleBench(torch.nn.Linear(2, 1, bias=False), {"a": head, "b": head},
...     {"a": rows, "b": rows}, {"a": torch.ones(8), "b": torch.ones(8)}, losses="squared")
>>> pool = Pool({"a": {"weight": np.float32([[1, 0]])}, "b": {"weight": np.float32([[0, 1]])}},
...             base={"weight": np.float32([[0, 0]])})
>>> SelfPositioning(steps=0).merge(pool, Have(bench=bench)).tensors["weight"].round(3)
array([[0.707, 0.707]], dtype=float32)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from plait.merging.base import Have, Merged, Merger
from plait.merging.bench import array
from plait.merging.engine import BLOCK
from plait.merging.objectives import supervised
from plait.merging.pool import Array, Pool
from plait.merging.tune import Learn, Mix, guarded
from plait.method import Card, Need, Paper
from plait.weights.sinks import Sink

LEAST = 1e-6  # of a weight, and of the sine of an angle to turn by


@dataclass(frozen=True, kw_only=True)
class SelfPositioning(Merger):
    """Spherical weights of the models and one length, learned from labelled rows."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="self_positioning",
        summary="Task vectors on arcs between one another, place and length learned.",
        paper=Paper(
            title=(
                "Improving General Text Embedding Model: Tackling Task Conflict and Data "
                "Imbalance through Model Merging"
            ),
            authors=(
                "Mingxin Li and Zhijie Nie and Yanzhao Zhang and Dingkun Long and Richong Zhang "
                "and Pengjun Xie"
            ),
            year=2024,
            url="https://arxiv.org/abs/2410.15035",
        ),
        needs=frozenset({Need.BASE, Need.LABELLED, Need.HEADS, Need.BACKWARD}),
        deviations=(
            "the tasks' own losses, where the paper has a contrastive loss of embeddings",
            "Adam; the paper takes SGD, its rate and start were not found",
            "the start is kept where tuning does not lower the validation loss",
        ),
    )
    start: float = 1.0
    penalty: float = 0.01
    steps: int = 200
    rate: float = 1e-2
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.start >= 0 and self.penalty >= 0):
            raise ValueError("start and penalty must not be negative")
        self._learn()

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """A few steps."""
        return ({"steps": 2, "batch": 4},)

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Learn weights and length from the inner products of the task vectors; merge."""
        bench = have.live
        mix = Mix(pool, bench, workers=workers)
        gram = torch.from_numpy(_gram(pool))
        start = torch.ones(len(pool) + 1, dtype=torch.float64)
        start[-1] = self.start

        def every(free: Tensor) -> Tensor:
            return (free[-1] * turned(free[:-1], gram)).expand(len(mix.names), -1)

        def project(free: Tensor) -> None:
            free[:-1].clamp_(min=LEAST)
            free[-1].clamp_(min=0)

        tuned, losses = self._learn().run(
            mix,
            start,
            every,
            supervised(bench),
            project=project,
            penalty=lambda free: self.penalty * free[-1],
        )
        found, told = guarded(mix, have, array(every(start)), array(every(tuned)), losses)
        free = tuned if told["kept"].startswith("what") else start
        place = {"weights": dict(zip(pool.names, free[:-1].tolist(), strict=True))}
        return mix.merged(found, have, sink, workers, {**told, **place, "length": float(free[-1])})

    def _learn(self) -> Learn:
        return Learn(steps=self.steps, rate=self.rate, batch=self.batch, seed=self.seed)


def turned(weights: Tensor, gram: Tensor) -> Tensor:
    """Coefficients [M] of V_M in the task vectors, by weights [M] and inner products [M, M]."""
    one = torch.eye(len(weights), dtype=weights.dtype)
    place = one[0]
    for k in range(1, len(weights)):
        before = weights[:k].mean()
        share = before / (before + weights[k])
        lengths = (place @ gram @ place).sqrt() * gram[k, k].sqrt()
        cosine = (place @ gram[k] / lengths).detach() if lengths > 0 else torch.ones(())
        if 1 - cosine.square() < LEAST**2:
            place = share * place + (1 - share) * one[k]
            continue
        angle = torch.acos(place @ gram[k] / lengths)
        parts = torch.sin(share * angle), torch.sin((1 - share) * angle)
        place = (parts[0] * place + parts[1] * one[k]) / torch.sin(angle)
    return place


def _gram(pool: Pool) -> Array:
    """The inner products [M, M] of whole task vectors."""
    found = np.zeros((len(pool), len(pool)))
    for site in pool.sites:
        if site.floating:
            for start in range(0, site.size, BLOCK):
                stop = min(start + BLOCK, site.size)
                deltas = pool.block(site, start, stop, against_base=True)[0].astype(np.float64)
                found += deltas @ deltas.T
    return found
