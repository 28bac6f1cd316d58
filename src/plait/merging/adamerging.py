"""AdaMerging: learn how much of each task vector to add, by the entropy of what is predicted.

    θ^l = θ₀^l + Σ_m λ_m^l δ_m^l,   λ = argmin Σ_t mean_rows H(softmax z_t(x; θ)),   λ ∈ [0, 1]

with δ_m^l = θ_m^l − θ₀^l at tensor l and z_t the numbers of task t's own head on its unlabelled
rows: a coefficient for each tensor and model (``per="tensor"``, the paper's "layer-wise"), or one
for each model (``per="task"``). With ``plus`` (AdaMerging++) the task vectors are first trimmed to
their largest entries, the share ``keep`` of the whole model, and those that differ in sign from the
sum are set to zero. Where the validation loss is no better for it, the start is kept.

>>> import numpy as np, torch
>>> from plait.merging.modules import ModuleBench
>>> body, head = torch.nn.Linear(1, 2, bias=False), torch.nn.Identity()
>>> bench = ModuleBench(body, {"a": head}, {"a": torch.ones(8, 1)})
>>> pool = Pool({"a": {"weight": np.float32([[3], [-3]])}}, base={"weight": np.float32([[1], [1]])})
>>> merged = AdaMerging(steps=3, rate=0.1).merge(pool, Have(bench=bench))
>>> merged.evidence["coefficients"]["weight"][0] > 0.5  # the task vector makes it more certain
True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from plait.merging.base import Have, Merged, Merger
from plait.merging.bench import array
from plait.merging.objectives import CLASSED, entropy
from plait.merging.pool import Pool
from plait.merging.stage import Edit
from plait.merging.stages.cuts import Trim
from plait.merging.stages.signs import Elected
from plait.merging.tune import Learn, Mix, guarded
from plait.method import Card, Law, Need, Paper
from plait.weights.sinks import Sink


@dataclass(frozen=True, kw_only=True)
class AdaMerging(Merger):
    """Coefficients of task vectors, learned from ``start`` on unlabelled rows."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="adamerging",
        summary="Task vectors whose coefficients are learned by the entropy of the predictions.",
        paper=Paper(
            title="AdaMerging: Adaptive Model Merging for Multi-Task Learning",
            authors=(
                "Enneng Yang and Zhenyi Wang and Li Shen and Shiwei Liu and Guibing Guo and "
                "Xingwei Wang and Dacheng Tao"
            ),
            year=2024,
            venue="International Conference on Learning Representations",
            url="https://arxiv.org/abs/2310.02575",
        ),
        needs=frozenset({Need.BASE, Need.UNLABELLED, Need.HEADS, Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "coefficients that leave [0, 1] are put back to its edge; the authors clamp a copy",
            "the rows are training rows without their labels; the authors tune on the test images",
            "the start is kept where tuning does not lower the validation loss",
        ),
    )
    losses: ClassVar[frozenset[str] | None] = CLASSED
    per: Literal["tensor", "task"] = "tensor"
    plus: bool = False
    keep: float = 0.2
    start: float = 0.3
    steps: int = 500
    rate: float = 1e-3
    batch: int = 16
    batches: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is a share above 0 and at most 1, not {self.keep:g}")
        if not 0 <= self.start <= 1:
            raise ValueError(f"start must lie in [0, 1], got {self.start:g}")
        self._learn()

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Both grains, and AdaMerging++."""
        few = {"steps": 2, "batch": 4, "batches": 1, "rate": 0.01}
        return (few, {**few, "per": "task"}, {**few, "plus": True, "keep": 0.5})

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Learn the coefficients, check them, and merge."""
        bench = have.live
        mix = Mix(pool, bench, edits=self._edits(), workers=workers)
        rows = len(mix.names) if self.per == "tensor" else 1
        start = torch.full((rows, len(pool)), self.start, dtype=torch.float64)

        def every(free: Tensor) -> Tensor:
            return free.expand(len(mix.names), -1)

        tuned, losses = self._learn().run(
            mix, start, every, entropy(bench), project=lambda free: free.clamp_(0, 1)
        )
        first, last = array(every(start)), array(every(tuned))
        found, told = guarded(mix, have, first, last, losses)
        return mix.merged(found, have, sink, workers, told)

    def _edits(self) -> tuple[Edit, ...]:
        if not self.plus:
            return ()
        trim = (Trim(keep=self.keep),) if self.keep < 1 else ()
        return (*trim, Elected())

    def _learn(self) -> Learn:
        return Learn(
            steps=self.steps,
            rate=self.rate,
            batch=self.batch,
            batches=self.batches,
            seed=self.seed,
        )
