"""Task gradients are pulled towards each other until their cosines reach the pair's usual one.

For each task i, start from v = g_i; for every j ≠ i in random order, with γ = cos(v, g_j): where
γ < φ_ij, v ← v + ‖v‖(φ√(1−γ²) − γ√(1−φ²))/(‖g_j‖√(1−φ²)) g_j, after which the cosine is φ_ij. Then
φ_ij ← (1−β)φ_ij + βγ. The update is Σ_i v_i. All rows move together, as in PCGrad, which this is
where φ stays 0. ``by="layer"`` keeps φ and projects for each layer by itself.

    >>> from plait.balancing.base import Signals
    >>> gram = torch.tensor([[1.0, -0.5], [-0.5, 1.0]])
    >>> balancer = GradVac()
    >>> balancer.bind(["click", "stars"])
    >>> balancer(Signals.of({"click": 0.3, "stars": 2.0}, gram=gram))
    tensor([1.5000, 1.5000], dtype=torch.float64)
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.gramian import clean, others_in_random_order
from plait.linalg import Floats
from plait.method import Card, Law, Need, Paper

LIMIT = 1 - 1e-6  # of a cosine that is aimed at: nearer to one the edit has no bounded length


@final
class GradVac(Balancer):
    """Gradient vaccine; ``beta`` is how fast the usual cosines move, ``by`` model or layer."""

    card = Card(
        family="balancing",
        name="gradvac",
        summary="Pulls task gradients to the cosines that are usual for each pair.",
        paper=Paper(
            title="Gradient Vaccine: Investigating and Improving Multi-task Optimization in "
            "Massively Multilingual Models",
            authors="Wang, Zirui and Tsvetkov, Yulia and Firat, Orhan and Cao, Yuan",
            year=2021,
            venue="ICLR",
            url="https://arxiv.org/abs/2010.05874",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
        deviations=(
            "The usual cosine moves for every pair that is met; some codes move edited pairs only.",
            "Heads receive their raw gradients.",
        ),
    )
    rung = Rung.GRAM
    weights_heads = False
    blind = True
    pairs: ClassVar = {"usual": 0.0}
    usual: Tensor

    def __init__(self, *, beta: float = 0.01, by: Literal["model", "layer"] = "model") -> None:
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must lie between 0 and 1, got {beta}")
        if by not in ("model", "layer"):
            raise ValueError(f"by must be 'model' or 'layer', got {by!r}")
        super().__init__()
        self.beta = beta
        self.by = by
        self.by_layer = by == "layer"

    def forward(self, s: Signals) -> Tensor:
        """α = Σ_i C[i], [t], or for each layer [g, t]."""
        weights, _ = self._vaccinated(s)
        found = torch.from_numpy(weights).to(s.losses.device)
        return found if self.by_layer else found[0]

    @torch.no_grad()
    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        """Move the usual cosines."""
        super().advance(s, after)
        _, usual = self._vaccinated(s)
        self.remember("usual", s, torch.from_numpy(usual))

    def _vaccinated(self, s: Signals) -> tuple[Floats, Floats]:
        """Weights [g, t] and usual cosines [t, t, g]."""
        seen = s.layers if self.by_layer else s.gram
        assert seen is not None
        seen = seen if self.by_layer else seen[None]
        usual = self.recall("usual", s, len(seen)).double().cpu().numpy()
        order = others_in_random_order(s)
        weights = [self._project(clean(gram), usual[..., k], order) for k, gram in enumerate(seen)]
        return np.stack(weights), usual

    def _project(self, gram: Floats, usual: Floats, order: NDArray[np.intp]) -> Floats:
        """Weights [t] of one Gramian; ``usual`` [t, t] is moved."""
        every = np.arange(len(gram))
        lengths = np.sqrt(gram.diagonal())
        coefficients, products = np.eye(len(gram)), gram.copy()
        for others in order.T:
            own = np.sqrt(np.maximum((products * coefficients).sum(1), 0.0))
            there = lengths[others]
            met = (own > 0) & (there > 0)
            size = np.where(met, own * there, 1.0)
            cosine = np.clip(products[every, others] / size, -1.0, 1.0)
            goal = np.clip(usual[every, others], -LIMIT, LIMIT)
            rest = np.sqrt(1 - goal**2)
            reach = own * (goal * np.sqrt(1 - cosine**2) - cosine * rest)
            add = np.where(met & (cosine < goal), reach / np.where(met, there * rest, 1.0), 0.0)
            coefficients[every, others] += add
            products += add[:, None] * gram[others]
            moved = (1 - self.beta) * usual[every, others] + self.beta * cosine
            usual[every, others] = np.where(met, moved, usual[every, others])
        return np.asarray(coefficients.sum(0))
