"""PLeaS: units of two models that match become one, the others stay side by side.

The second model's units are put into the first's order by the assignment with the largest inner
products of their weights or, with ``by="activations"``, the smallest distances between their
activations on unlabelled rows of both tasks. Of every group of d units the share 1 − ρ that agree
most is merged, the others of both models are kept, so that the group grows to d (1 + ρ). With
inputs [z, i₁, i₂] and outputs alike (z merged, i_m and o_m kept by model m)

    W_zz = ½ (W₁ + W₂),   W_oₘz = W_m,   W_zi_m = ½ W_m,   W_oₘiₘ = W_m,   W_o₁i₂ = W_o₂i₁ = 0

in the order matched, and the mean along axes that no group stands along (inputs, outputs). With
``fit`` each layer is then, from there on, the least squares of its outputs in both models, joined
so, on their inputs, joined so (:mod:`plait.merging.fitting`); W_o₁i₂ and W_o₂i₁ stay 0. ρ is
``separate``: at 0 the models are averaged in one order, at 1 they stand side by side and the output
is exactly the mean of theirs. ``rules`` are as for zipit. With ρ above 0 the module that loads the
result has to be built with the widths that the evidence tells.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> a = {"0.weight": np.array([[1.0, 0.0], [0.0, 2.0]]), "1.weight": np.array([[3.0, 4.0]])}
>>> b = {"0.weight": np.array([[0.0, 2.0], [0.0, 1.0]]), "1.weight": np.array([[4.0, 1.0]])}
>>> Pleas(separate=0.5, rules="sequence").merge(Pool({"a": a, "b": b})).tensors["1.weight"]
array([[4. , 1.5, 0.5]])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.base import Have, Merged, Merger
from plait.merging.fitting import fitted
from plait.merging.matching import assigned, likeness, match_weights
from plait.merging.pool import Array, Pool
from plait.merging.units import Units, merge_units, units
from plait.method import Card, Need, Paper
from plait.weights.sinks import Sink


def partial_homes(alike: Array, order: Array, separate: float) -> Array:
    """Homes [2, d] below d (1 + ρ): the matched pairs least alike keep a unit for each model.

    ``alike`` [d, d] are likenesses, the first model's in rows, and ``order`` [2, d] the homes of a
    matching.
    """
    size = order.shape[1]
    kept = round(size * separate)
    partner = np.argsort(order[1])
    pairs = alike[np.arange(size), partner]
    worst = np.argsort(pairs, kind="stable")[:kept]
    apart = np.zeros(size, bool)
    apart[worst] = True
    place = np.empty((2, size), np.intp)
    place[:, ~apart] = np.arange(size - kept)
    place[0, apart] = size - kept + np.arange(kept)
    place[1, apart] = size + np.arange(kept)
    return np.take_along_axis(place, order, axis=1)


@dataclass(frozen=True, kw_only=True)
class Pleas(Merger):
    """Two models in one order, the share ``separate`` of their units kept from both."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="pleas",
        summary="Two models with their matching units merged and the others kept side by side.",
        paper=Paper(
            title="PLeaS -- Merging Models with Permutations and Least Squares",
            authors="Anshul Nasery and Jonathan Hayase and Pang Wei Koh and Sewoong Oh",
            year=2025,
            venue="Conference on Computer Vision and Pattern Recognition",
            url="https://arxiv.org/abs/2407.02447",
        ),
        deviations=(
            "where not told otherwise weights are matched and no least squares follow",
            "least squares are solved in closed form; the authors take 400 steps of Adam",
            "distances are taken over all rows; the authors add up those over batches",
            "outputs are the mean of both models'; the authors also keep a head for each",
            "one share for all groups; the authors find one for each under a budget of operations",
            "the count kept is exact; the authors take all pairs below a quantile",
        ),
    )
    count: ClassVar[int | None] = 2
    separate: float = 0.0
    rules: Mapping[str, Sequence[str | None]] | Literal["sequence"] | None = None
    by: Literal["weights", "activations"] = "weights"
    fit: bool = False
    rows: int = 256
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.separate <= 1:
            raise ValueError(f"separate is a share from 0 to 1, not {self.separate:g}")
        if self.rows < 1 or self.batch < 1:
            raise ValueError("rows and batch must be at least 1")

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Units found from names, and units said by rules."""
        return ({}, {"rules": {"trunk.weight": ["units", None], "trunk.bias": ["units"]}})

    def needs(self) -> frozenset[Need]:
        """Unlabelled rows for activations and for least squares."""
        looks = self.fit or self.by == "activations"
        return frozenset({Need.UNLABELLED} if looks else ())

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Match, decide which pairs stay apart, merge, and fit."""
        found = units(pool, self.rules)
        plan = self._plan(pool, have, found)
        widths = {group: int(rows.max()) + 1 for group, rows in plan.items()}
        evidence: dict[str, Any] = {"units": dict(found.sizes), "widths": widths}
        instead = None
        if self.fit:
            from plait.merging.activations import of_layers  # loads torch

            rows = {"rows": self.rows, "size": self.batch, "seed": self.seed}
            instead = fitted(pool, found, plan, of_layers(have.live, pool, **rows))
            evidence["fitted"] = sorted(instead)
        return merge_units(pool, found, plan, sink, workers, evidence, instead=instead)

    def _plan(self, pool: Pool, have: Have, found: Units) -> dict[str, Array]:
        """Homes [2, d] by group."""
        plan = {}
        if self.by == "activations":
            from plait.merging.activations import of_units  # loads torch

            rows = {"rows": self.rows, "size": self.batch, "seed": self.seed}
            for group, moments in of_units(have.live, pool, found, **rows).items():
                near = moments.nearness()
                order = np.stack([np.arange(len(near)), assigned(near)])
                plan[group] = partial_homes(near, order, self.separate)
            return plan
        matched = match_weights(pool, found)
        homes = {group: rows[1] for group, rows in matched.items()}
        for group, order in matched.items():
            alike = likeness(pool, found, list(found.of(group)), homes, 1)
            plan[group] = partial_homes(alike, order, self.separate)
        return plan
