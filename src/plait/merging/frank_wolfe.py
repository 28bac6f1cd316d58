"""FW-Merging, hard: step by step towards the model that lies most against the tasks' gradient.

    θ ← θ + λ η 2/(k + 2) (v − θ),   v = argmin_{v ∈ V} Σ_l cos(∂L/∂θ^l, v^l),   L = Σ_t L_t(θ)

for k = 0, 1, …; θ starts at θ₀ + λ Σ_m δ_m with δ_m = θ_m − θ₀, and V are the models and that.
The cosine is that of full weights at tensor l; with ``per="tensor"`` each tensor takes a model of
its own. L_t is the mean of the task's own loss on a few labelled rows. λ is ``start``, η ``rate``.
With ``textbook`` it is Frank-Wolfe's own step, θ ← θ + 2/(k + 2) (v − θ) towards the v of the least
inner product Σ_l ⟨∂L/∂θ^l, v^l⟩, under which a convex L falls as 1/k to its least value among the
mixtures of V; the gaps ⟨∂L/∂θ, θ − v⟩, which bound what is left to fall, are in the evidence.
All of this moves on coefficients of the task vectors, so that no more than one network is held.

>>> import numpy as np, torch
>>> from plait.merging.base import Have
>>> from plait.merging.modules import ModuleBench
>>> from plait.merging.pool import Pool
>>> head, rows = torch.nn.Identity(), torch.eye(2)
>>> bench = ModuleBench(torch.nn.Linear(2, 1, bias=False), {"a": head, "b": head},
...     {"a": rows, "b": rows}, {"a": torch.tensor([0., 9.]), "b": torch.tensor([0., 9.])},
...     losses="squared")
>>> pool = Pool({"a": {"weight": np.float32([[8, 0]])}, "b": {"weight": np.float32([[0, 8]])}},
...             base={"weight": np.float32([[0, 0]])})
>>> merged = FrankWolfe(start=0.5, rate=0.5, steps=1).merge(pool, Have(bench=bench))
>>> merged.evidence["picked"], merged.tensors["weight"]
(['b'], array([[3., 5.]], dtype=float32))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.base import Have, Merged, Merger
from plait.merging.objectives import supervised
from plait.merging.pool import Array, Pool
from plait.merging.tune import Mix
from plait.merging.vertices import cosines
from plait.method import Card, Law, Need, Paper
from plait.weights.sinks import Sink


@dataclass(frozen=True, kw_only=True)
class FrankWolfe(Merger):
    """``steps`` towards models, each chosen by gradients on ``rows`` labelled rows of each task."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="frank_wolfe",
        summary="Step by step towards the model that lies most against the tasks' gradient.",
        paper=Paper(
            title="FW-Merging: Scaling Model Merging with Frank-Wolfe Optimization",
            authors=(
                "Hao Mark Chen and Shell Xu Hu and Wayne Luk and Timothy Hospedales and "
                "Hongxiang Fan"
            ),
            year=2025,
            venue="IEEE/CVF International Conference on Computer Vision",
            url="https://arxiv.org/abs/2503.12649",
        ),
        needs=frozenset({Need.BASE, Need.LABELLED, Need.HEADS, Need.BACKWARD}),
        deviations=(
            "the cosine of full weights, as in the authors' code; the paper's product by textbook",
            "no step towards zero, which the authors' code for text takes at cosines above 0",
            "started and moved by task arithmetic; the authors also have TIES",
        ),
        laws=frozenset({Law.PERMUTATION}),
    )
    start: float = 0.3
    rate: float = 0.1
    steps: int = 10
    per: Literal["model", "tensor"] = "model"
    rows: int = 100
    seed: int = 0
    textbook: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0 or self.rows < 1:
            raise ValueError("steps must be 0 or more, rows at least 1")

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """By model and by tensor."""
        return ({"steps": 2, "rows": 4}, {"steps": 2, "rows": 4, "per": "tensor"})

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """A gradient, a look at every vertex and a step, again and again."""
        mix = Mix(pool, have.live, workers=workers)
        begun = np.full(len(pool), self.start)
        vertices = np.vstack([np.eye(len(pool)), begun])
        names = [*pool.names, None]  # the last is the start
        now = np.tile(begun, (len(mix.names), 1))
        picked: list[object] = []
        gaps: list[float] = []
        for step in range(self.steps):
            mix.place(now)
            scores = self._scores(mix, vertices)
            slopes = scores[:, : len(pool)] - scores[:, -1:]  # along task vectors
            scores = scores[:, : len(vertices)]
            if self.per == "model":
                scores = np.tile(scores.sum(0), (len(scores), 1))
            chosen = scores.argmin(1)
            way = vertices[chosen] - now
            gaps.append(-float((slopes * way).sum()))
            share = 1.0 if self.textbook else self.start * self.rate
            now += share * 2 / (step + 2) * way
            whose = [names[place] for place in chosen]
            by_site = dict(zip(mix.names, whose, strict=True))
            picked.append(whose[0] if self.per == "model" else by_site)
        told = {"picked": picked, "gaps": gaps} if self.textbook else {"picked": picked}
        return mix.merged(now, have, sink, workers, told)

    def _scores(self, mix: Mix, vertices: Array) -> Array:
        """Of the vertices, and last of the base."""
        return cosines(
            mix,
            mix.bench.tasks,
            supervised(mix.bench),
            np.vstack([vertices, np.zeros(vertices.shape[1])]),
            rows=self.rows,
            seed=self.seed,
            products=self.textbook,
        )
