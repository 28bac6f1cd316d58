"""WIDEN: weigh every column of a model's change by how far its length and direction have moved.

    θ = θ₀ + Σ_m ½ (A_m + B_m) ⊙ δ_m,   a_mj = |‖θ_m,j‖ − ‖θ₀,j‖|,   b_mj = 1 − cos(θ_m,j, θ₀,j)

with δ_m = θ_m − θ₀ [o, n] and j the columns. A [M, n] comes from a and B from b: within every
model values are replaced by their ranks 0, 1/n, …, (n − 1)/n, the scores are the softmax of the
ranks over the models, and where a rank is above ``ratio`` times the model's mean rank the score is
``calibration`` instead. Vectors [n] have one score, from |δ_m| as it is in place of ranks.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([[2.0, 1.0], [0.0, 1.0]])},
...              "b": {"w": np.array([[1.0, 4.0], [0.0, 1.0]])}},
...             base={"w": np.array([[1.0, 1.0], [0.0, 1.0]])})
>>> Widen().merge(pool).tensors["w"].round(3)
array([[1.75, 4.  ],
       [0.  , 1.  ]])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from plait.merging.base import Merger, Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stage import Combine, Context, Grain
from plait.merging.stages.sums import added
from plait.method import Card, Law, Need, Paper


@dataclass(frozen=True, kw_only=True)
class Disentangled(Combine):
    """The sum of the deltas, columns weighed by their scores."""

    grain: ClassVar[Grain] = Grain.TENSOR
    ratio: float
    calibration: float
    embeddings: tuple[str, ...]

    def __call__(self, deltas: Array, coefficients: Array, ctx: Context) -> Array:  # noqa: ARG002
        """Score and add."""
        assert ctx.base is not None
        if deltas.ndim < 3:
            deltas *= self._scores(np.abs(deltas).astype(np.float64)).astype(deltas.dtype)
            return added(deltas, into=deltas[0])
        across = deltas.reshape(*deltas.shape[:2], -1)
        base = ctx.base.reshape(across.shape[1:])
        if ctx.site.name.endswith(self.embeddings):  # a column is a word of the vocabulary
            across, base = across.swapaxes(1, 2), base.T
        found = [_moved(base.astype(np.float64), delta) for delta in across]
        length, direction = (np.stack(one) for one in zip(*found, strict=True))
        scores = (self._scores(_ranks(length)) + self._scores(_ranks(direction))) / 2
        across *= scores[:, None].astype(deltas.dtype)
        return added(deltas, into=deltas[0])

    def _scores(self, values: Array) -> Array:
        """Softmax of values [M, n] over the models, those above a model's mean calibrated."""
        powers = np.exp(values - values.max(0))
        above = values > values.mean(1, keepdims=True) * self.ratio
        return np.where(above, self.calibration, powers / powers.sum(0))


def _moved(base: Array, delta: Array) -> tuple[Array, Array]:
    """How far the columns' lengths and directions have moved, [n] each."""
    model = base + delta
    was, now = np.linalg.norm(base, axis=0), np.linalg.norm(model, axis=0)
    product = was * now
    cosine = np.divide((base * model).sum(0), product, out=(was == now) * 1.0, where=product > 0)
    return np.abs(now - was), 1 - cosine


def _ranks(values: Array) -> Array:
    """Places of values [M, n] in each row's rising order, from 0 to (n − 1)/n."""
    order = np.argsort(values, axis=1, kind="stable")
    places = np.empty(values.shape)
    np.put_along_axis(places, order, np.arange(values.shape[1])[None] / values.shape[1], axis=1)
    return places


@dataclass(frozen=True, kw_only=True)
class Widen(Merger):
    """Columns weighed by the ranks of their changes; a tensor named in ``embeddings`` by row."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="widen",
        summary="Task vectors added column by column, weighed by ranks of length and direction.",
        paper=Paper(
            title=(
                "Extend Model Merging from Fine-Tuned to Pre-Trained Large Language Models via "
                "Weight Disentanglement"
            ),
            authors="Le Yu and Bowen Yu and Haiyang Yu and Fei Huang and Yongbin Li",
            year=2024,
            venue="arXiv",
            url="https://arxiv.org/abs/2408.03092",
        ),
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "tensors of more axes are matrices of their first axis by the others together",
            "a column of zeros has not turned; the authors' code divides zero by zero",
        ),
        exceptions={
            "equal_experts_keep_their_direction": "columns are weighed by their ranks",
            "translation": "lengths and directions of columns are about zero",
            "stretching": "lengths and directions of columns are about zero",
            "any_size_is_finite": "vectors are scored by their differences as they are",
        },
    )
    ratio: float = 1.0
    calibration: float = 1.0
    embeddings: tuple[str, ...] = ("embed_tokens.weight",)

    def pipeline(self, pool: Pool) -> Pipeline:  # noqa: ARG002
        """One combination."""
        combine = Disentangled(
            ratio=self.ratio, calibration=self.calibration, embeddings=tuple(self.embeddings)
        )
        return Pipeline(combine=combine)
