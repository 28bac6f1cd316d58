"""TIES with a slack in favour of one of two models, for a language and a skill.

    s = sgn(δ̃_language + δ̃_skill + ξ sgn δ̃_skill),   θ = θ₀ + λ Σ_m a_m δ̃_m / max(1, Σ_m a_m)

with δ̃_m the trimmed task vectors of :mod:`TIES <plait.merging.ties>` [*s] and a_m = 1[sgn δ̃_m = s]:
where the two disagree, the one trained on for a language has its sign only if it is larger by
more than the slack ξ ≥ 0. ξ = 0 is TIES. The ``skill`` is a model's name, the second model's unless
given. λ is ``scale``; where it is not given it is the value of ``grid`` with the lowest validation
loss, and 1 without validation rows.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"language": {"w": np.array([4.0, 2.0, 9.0])},
...              "skill": {"w": np.array([2.0, -1.5, -1.0])}}, base={"w": np.zeros(3)})
>>> LrlMerge(keep=1.0, slack=1.0).merge(pool).tensors["w"]
array([ 3. , -1.5,  9. ])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pipeline import Free
from plait.merging.pool import Array, Pool
from plait.merging.stages.cuts import Trim
from plait.merging.stages.signs import Agreeing
from plait.merging.stages.sums import added, weigh
from plait.method import Card, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Favouring(Agreeing):
    """The election in which one model's sign has ``slack`` more."""

    skill: int
    slack: float

    def _election(self, deltas: Array, coefficients: Array) -> Array:
        """The sum, and the slack with the skill's sign; the deltas are weighed on the way."""
        total = added(deltas)
        total += deltas.dtype.type(self.slack) * np.sign(deltas[self.skill])
        weigh(deltas, coefficients)
        return total


@dataclass(frozen=True, kw_only=True)
class LrlMerge(Merger):
    """TIES of a language's and a ``skill``'s model, the skill favoured by ``slack``."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="lrl_merge",
        summary="TIES of a language's model and a skill's, with a slack in favour of the skill.",
        paper=Paper(
            title="Unlocking the Potential of Model Merging for Low-Resource Languages",
            authors=(
                "Mingxu Tao and Chen Zhang and Quzhe Huang and Tianyao Ma and Songfang Huang and "
                "Dongyan Zhao and Yansong Feng"
            ),
            year=2024,
            venue="Findings of the Association for Computational Linguistics: EMNLP",
            url="https://arxiv.org/abs/2407.03994",
        ),
        needs=frozenset({Need.BASE}),
        deviations=(
            "where the slack enters is a reconstruction: the paper's formula was not available",
            "the defaults of the slack and of keep are not the paper's",
        ),
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"skill": "values"}
    count: ClassVar[int | None] = 2
    skill: str | None = None
    slack: float = 1e-4
    keep: float = 0.2
    scale: float | None = None
    grid: tuple[float, ...] = (0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0)

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is a share above 0 and at most 1, not {self.keep:g}")
        if not self.slack >= 0:
            raise ValueError(f"slack is 0 or more, not {self.slack:g}")

    def pipeline(self, pool: Pool) -> Pipeline:
        """Trim, then combine what agrees with the favouring election."""
        skill = pool.names[-1] if self.skill is None else self.skill
        if skill not in pool.names:
            raise ValueError(f"no model is called {skill!r}, there are: {', '.join(pool.names)}")
        factor = Free(grid=tuple(self.grid), fallback=1.0) if self.scale is None else self.scale
        combine = Favouring(skill=pool.names.index(skill), slack=self.slack)
        edits = (Trim(keep=self.keep),) if self.keep < 1 else ()
        return Pipeline(edits=edits, combine=combine, scale=factor)
