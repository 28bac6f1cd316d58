"""FW-Merging, soft: rounds of learned steps towards the models, from where the last one ended.

    θ^l ← θ^l + Σ_m λ_m^l (θ_m^l − θ^l),   λ = argmin Σ_t mean_rows H(softmax z_t(x; θ))

once a round, starting at the base θ₀, with λ [L, M] unbounded and z_t the numbers of task t's own
head on its rows. λ starts at ``start`` in the first round and at ~0 in later ones. With
``objective="labels"`` the tasks' own losses stand in for the entropy H. In each round every task
picks, among the models that no task before it has picked, the one that lies most against its
gradient; here every task has its model, so all are picked, and no gradient is taken for that. Where
the validation loss is no better for it, the first round's start is kept.

>>> import numpy as np, torch
>>> from plait.merging.base import Have
>>> from plait.merging.modules import ModuleBench
>>> from plait.merging.pool import Pool
>>> body, head = torch.nn.Linear(1, 2, bias=False), torch.nn.Identity()
>>> bench = ModuleBench(body, {"a": head}, {"a": torch.ones(8, 1)})
>>> pool = Pool({"a": {"weight": np.float32([[3], [-3]])}}, base={"weight": np.float32([[1], [1]])})
>>> soft = FrankWolfeSoft(rounds=2, steps=3, rate=0.1)
>>> soft.merge(pool, Have(bench=bench)).evidence["coefficients"]["weight"][0] > 0.5
True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from plait.merging.base import Have, Merged, Merger
from plait.merging.bench import array
from plait.merging.objectives import CLASSED, entropy, supervised
from plait.merging.pool import Pool
from plait.merging.tune import Learn, Mix, guarded
from plait.method import Card, Law, Need, Paper
from plait.weights.sinks import Sink

NEARLY_NONE = 1e-8  # where the coefficients of later rounds start


@dataclass(frozen=True, kw_only=True)
class FrankWolfeSoft(Merger):
    """``rounds`` of ``steps`` of learning, on unlabelled rows or on labels."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="frank_wolfe_soft",
        summary="Rounds of learned steps from the current weights towards all models.",
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
        needs=frozenset({Need.BASE, Need.UNLABELLED, Need.HEADS, Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "pools whose models are those of the tasks, so that every round picks all of them",
            "the rows are training rows; the authors learn on the test images",
            "the first round's start is kept where the end does not lower the validation loss",
        ),
    )
    losses: ClassVar[frozenset[str] | None] = CLASSED
    objective: Literal["entropy", "labels"] = "entropy"
    start: float = 0.3
    rounds: int = 10
    steps: int = 500
    rate: float = 1e-3
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")
        self._learn(0)

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Two rounds of one step."""
        return ({"rounds": 2, "steps": 1, "batch": 4, "rate": 0.01},)

    def needs(self) -> frozenset[Need]:
        """Labels in place of rows alone, where they are asked for."""
        labels = {Need.LABELLED} if self.objective == "labels" else set()
        return self.card.needs | labels

    def admit(self, losses: Mapping[str, str]) -> None:
        """Any loss will do with labels."""
        if self.objective == "entropy":
            super().admit(losses)

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Learn round by round, check the end, and merge."""
        bench = have.live
        mix = Mix(pool, bench, workers=workers)
        aim = entropy(bench) if self.objective == "entropy" else supervised(bench)
        shape = (len(mix.names), len(pool))
        now = torch.zeros(shape, dtype=torch.float64)
        losses: list[float] = []
        for number in range(self.rounds):
            start = torch.full(shape, NEARLY_NONE if number else self.start, dtype=torch.float64)

            def every(free: Tensor, here: Tensor = now) -> Tensor:
                return here * (1 - free.sum(1, keepdim=True)) + free

            tuned, found = self._learn(number).run(mix, start, every, aim)
            now = every(tuned)
            losses += found
            if not np.isfinite(found).all():
                break
        first = np.full(shape, self.start)
        kept, told = guarded(mix, have, first, array(now), losses)
        return mix.merged(kept, have, sink, workers, told)

    def _learn(self, number: int) -> Learn:
        """A round's learning; each round sees the rows in another order."""
        seed = self.seed + number
        return Learn(steps=self.steps, rate=self.rate, batch=self.batch, seed=seed)
