"""Greedy soup: average the models one after another, keeping each that helps on validation.

    θ = 1/|S| Σ_{m ∈ S} θ_m

The models are sorted by their validation losses; S starts with the best, and a model joins it where
the average with it has a loss strictly below that of the average without. So the result is never
worse on the validation rows than the best single model. Equal losses are sorted by name.

>>> import numpy as np
>>> from plait.merging.base import Have
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([4.0])}, "b": {"w": np.array([1.0])},
...              "c": {"w": np.array([9.0])}})
>>> merged = GreedySoup().merge(pool, Have(validation=lambda state: abs(state["w"][0] - 3)))
>>> merged.evidence["models"], merged.tensors["w"]
(['a', 'b'], array([2.5]))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from plait.merging.base import Have, Merged, Merger
from plait.merging.pipeline import Pipeline
from plait.merging.pool import Pool
from plait.merging.stages.sums import Sum
from plait.method import Card, Law, Need, Paper
from plait.weights.sinks import Memory, Sink


@dataclass(frozen=True, kw_only=True)
class GreedySoup(Merger):
    """The average of those models that lower the validation loss."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="greedy_soup",
        summary="The average of the models, each added only where it helps on validation.",
        paper=Paper(
            title=(
                "Model soups: averaging weights of multiple fine-tuned models improves accuracy "
                "without increasing inference time"
            ),
            authors=(
                "Mitchell Wortsman and Gabriel Ilharco and Samir Yitzhak Gadre and "
                "Rebecca Roelofs and Raphael Gontijo-Lopes and Ari S. Morcos and "
                "Hongseok Namkoong and Ali Farhadi and Yair Carmon and Simon Kornblith and "
                "Ludwig Schmidt"
            ),
            year=2022,
            venue="International Conference on Machine Learning",
            url="https://arxiv.org/abs/2203.05482",
        ),
        needs=frozenset({Need.VALIDATION}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "judged by the validation loss, where the authors take accuracy",
            "models are those of different tasks; the authors' are runs on one task",
        ),
    )

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Judge every model, then at most one average for each of the others."""
        alone = {name: self._loss(pool, have, (name,), workers) for name in pool.names}
        usable = {name: loss for name, loss in alone.items() if np.isfinite(loss)}
        if not usable:
            raise ValueError("greedy_soup: no model has a finite validation loss")
        first, *others = sorted(usable, key=lambda name: (usable[name], name))
        soup: tuple[str, ...] = (first,)
        best = usable[first]
        tried: list[dict[str, object]] = []
        for name in others:
            loss = self._loss(pool, have, (*soup, name), workers)
            better = loss < best
            tried.append({"model": name, "loss": loss if np.isfinite(loss) else None})
            if better:
                soup, best = (*soup, name), loss
        merged = self._average(pool, soup, sink, workers)
        told = {name: usable.get(name) for name in pool.names}
        found = {"models": list(soup), "loss": best, "alone": told, "tried": tried}
        return Merged(tensors=merged.tensors, evidence=found)

    def _loss(self, pool: Pool, have: Have, models: tuple[str, ...], workers: int) -> float:
        assert have.validation is not None, "its need was checked"
        return float(have.validation(self._average(pool, models, Memory(), workers).tensors))

    @staticmethod
    def _average(pool: Pool, models: tuple[str, ...], sink: Sink, workers: int) -> Merged:
        line = Pipeline(combine=Sum(over=len(models)), against_base=False)
        return line.run(pool.among(*models), Have(), sink, workers)
