"""Model Stock: the mean of the models, drawn to the base the more the wider their angles are.

    t = M c / (1 + (M − 1) c),   θ = t · mean_m θ_m + (1 − t) θ₀

tensor by tensor (``per="row"``: row by row), with c the mean cosine between the task vectors
δ_m = θ_m − θ₀ [*s] of all pairs of models, and t between 0 and 1.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([1.0, 0.0])}, "b": {"w": np.array([3.0, 4.0])}},
...             base={"w": np.zeros(2)})  # c = 0.6, t = 0.75
>>> ModelStock().merge(pool).tensors["w"]
array([1.5, 1.5])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stages.grams import Spanned, cosines
from plait.method import Card, Law, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Shrunk(Spanned):
    """t/M for every model, t from the mean cosine."""

    def weights(self, gram: Array, coefficients: Array) -> Array:
        """The same weight for all."""
        count = len(coefficients)
        first, second = np.triu_indices(count, 1)
        cosine = cosines(gram)[..., first, second].mean(-1) if count > 1 else np.ones(len(gram))
        # At and below its pole, −1/(M − 1), the ratio changes sign: below 0 it is the base.
        cosine = np.maximum(cosine, 0)
        shrink = count * cosine / (1 + (count - 1) * cosine)
        return np.asarray(np.broadcast_to(shrink[..., None] / count, (*shrink.shape, count)))


@dataclass(frozen=True, kw_only=True)
class ModelStock(Merger):
    """The mean and the base, interpolated by the angle between the task vectors."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="model_stock",
        summary="The mean of the models, drawn to the base by the angles between them.",
        paper=Paper(
            title="Model Stock: All we need is just a few fine-tuned models",
            authors="Dong-Hwan Jang and Sangdoo Yun and Dongyoon Han",
            year=2024,
            venue="European Conference on Computer Vision",
            url="https://arxiv.org/abs/2403.19522",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "more than two models have the mean cosine of all pairs for the paper's one angle",
            "a negative mean cosine counts as 0, which gives the base; the ratio has a pole there",
            "one model comes back as it is",
        ),
    )
    per: Literal["tensor", "row"] = "tensor"

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """By tensor and by row."""
        return ({}, {"per": "row"})

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """One combination."""
        return Pipeline(combine=Shrunk(per=self.per))
