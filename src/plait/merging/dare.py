"""DARE: drop most entries of every task vector at random, and enlarge what is left, then merge.

    δ̃_m = δ_m ⊙ z_m / (1 − p),   z_m ~ Bernoulli(1 − p) entry by entry,   θ = merge(θ₀, δ̃_1, …, δ̃_M)

with δ_m = θ_m − θ₀ [*s], p the ``drop`` rate and merge any ``method`` that is a pipeline over task
vectors: :mod:`task arithmetic <plait.merging.task_arithmetic>`, :mod:`TIES <plait.merging.ties>`, …
Masks depend on the seed, the model's name, the tensor's name and the place in it, nothing else.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.ones(8)}}, base={"w": np.zeros(8)})
>>> Dare(drop=0.5, method={"task_arithmetic": {"scale": 1.0}}).merge(pool).tensors["w"]
array([0., 0., 2., 2., 0., 2., 2., 2.])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from plait.merging.base import Merger, Pipeline, inner_pipeline
from plait.merging.pool import Pool
from plait.merging.stages.drops import Drop
from plait.method import Card, Method, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Dare(Merger):
    """Drop entries at the rate ``drop`` and rescale, then merge by ``method``."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="dare",
        summary="Task vectors thinned out at random without bias, then merged.",
        paper=Paper(
            title=(
                "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a "
                "Free Lunch"
            ),
            authors="Le Yu and Bowen Yu and Haiyang Yu and Fei Huang and Yongbin Li",
            year=2024,
            venue="International Conference on Machine Learning",
            url="https://arxiv.org/abs/2311.03099",
        ),
        needs=frozenset({Need.BASE}),
        deviations=(
            "the drop rate is rounded to 1/65,536 and the rescaling is by the rounded rate",
            "drop = 0.9 unless given, as the paper recommends; the authors' code has 0.1",
        ),
    )
    parts: ClassVar[Mapping[str, str]] = {"method": "merging"}
    method: Method | str | Mapping[str, Any] = "task_arithmetic"
    drop: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop is a share from 0 to below 1, not {self.drop:g}")

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """Nothing dropped, and nothing scaled by the method."""
        return {"drop": 0.0, "method": {"task_arithmetic": {"scale": 1.0}}}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Before task arithmetic and before TIES."""
        return ({}, {"method": {"ties": {"scale": 1.0}}, "drop": 0.5})

    def pipeline(self, pool: Pool) -> Pipeline:
        """The method's pipeline with the drop before its edits."""
        line = inner_pipeline(self.method, pool, self.card.name)
        if self.drop == 0:
            return line
        return replace(line, edits=(Drop(drop=self.drop, seed=self.seed), *line.edits))
