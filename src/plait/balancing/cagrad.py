"""The update whose worst gain over the tasks is the best, within a ball around the mean gradient.

With b = 1/t and w = argmin over the simplex of wᵀGb + κ√(wᵀGw), κ = c√(bᵀGb):
α = b + κ/√(wᵀGw) · w, [t], divided by 1 + c² (``rescale=1``) or 1 + c (2), or left (0).

On a set of tasks S the minimum with free signs has a closed form: with G and h = Gb on S,
a = 1ᵀG⁻¹1, e = 1ᵀG⁻¹h, q = hᵀG⁻¹h: w = (s/κ) G⁻¹(μ1 − h), μ = (e + √(e² − a(q − κ²)))/a and
s = κ/(μa − e), so an active set finds w.

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> gram = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> CAGrad(c=0.5, rescale=0)(Signals.of({"click": 0.3, "stars": 2.0}, gram=gram))
    tensor([0.7500, 0.7500], dtype=torch.float64)
"""

from __future__ import annotations

from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from plait.balancing.gramian import OnGramian
from plait.linalg import Floats, simplex_minimum
from plait.method import Card, Law, Need, Paper


@final
class CAGrad(OnGramian):
    """Conflict-averse descent; ``c`` is the ball's radius in lengths of the mean gradient."""

    card = Card(
        family="balancing",
        name="cagrad",
        summary="The best worst gain over the tasks, near the mean gradient.",
        paper=Paper(
            title="Conflict-Averse Gradient Descent for Multi-task Learning",
            authors="Liu, Bo and Liu, Xingchao and Jin, Xiaojie and Stone, Peter and Liu, Qiang",
            year=2021,
            venue="NeurIPS",
            url="https://arxiv.org/abs/2110.14048",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
        deviations=(
            "w is found exactly by an active set, not by a general-purpose optimiser.",
            "Where some mixture of the gradients vanishes the update is the mean gradient.",
            "The authors' vision code multiplies the update by the number of tasks.",
        ),
    )

    def __init__(self, *, c: float = 0.4, rescale: Literal[0, 1, 2] = 1) -> None:
        if c < 0:
            raise ValueError(f"c must not be negative, got {c}")
        if rescale not in (0, 1, 2):
            raise ValueError(f"rescale must be 0, 1 or 2, got {rescale!r}")
        super().__init__()
        self.c = c
        self.rescale = rescale

    def weigh(self, gram: Floats) -> Floats:
        """α, [t]."""
        count = len(gram)
        mean = np.full(count, 1 / count)
        scaled = gram / gram.diagonal().mean()
        pull = scaled @ mean
        radius = self.c * np.sqrt(max(float(mean @ pull), 0.0))
        alpha = mean
        if radius > 0:
            mix = _worst_mixture(scaled, pull, radius)
            length = np.sqrt(max(float(mix @ scaled @ mix), 0.0))
            alpha = mean + (radius / length * mix if length > 1e-7 else 0.0)
        return np.asarray(alpha / {0: 1.0, 1: 1 + self.c**2, 2: 1 + self.c}[self.rescale])


def _worst_mixture(gram: Floats, pull: Floats, radius: float) -> Floats:
    """W on the simplex, [t]."""

    def length(w: Floats) -> float:
        return float(np.sqrt(max(float(w @ gram @ w), 1e-20)))

    def slope(w: Floats) -> Floats:
        return np.asarray(pull + radius * (gram @ w) / length(w))

    def free_minimum(chosen: NDArray[np.intp], w: Floats) -> Floats:
        part, right = gram[chosen[:, None], chosen], np.ones((len(chosen), 2))
        part.flat[:: len(chosen) + 1] += 1e-13
        right[:, 1] = pull[chosen]
        ones, along = np.linalg.solve(part, right).T
        a, e, q = ones.sum(), along.sum(), right[:, 1] @ along
        inside = e * e - a * (q - radius**2)
        if inside > 0:
            size = radius / np.sqrt(inside)
            level = (e + np.sqrt(inside)) / a
        else:  # no minimum with free signs: that of a parabola above, which touches at w
            size = length(w)
            level = (radius / size + e) / a
        return np.asarray(size / radius * (level * ones - along))

    return simplex_minimum(slope, free_minimum, len(gram), slack=1e-9)
