"""PLeaS, from weights: units of two models that match become one, the others stay side by side.

The second model's units are put into the first's order by the assignment with the largest inner
products of their weights. Of every group of d units the share 1 − ρ whose matched weights agree
most is merged, the others of both models are kept, so that the group grows to d (1 + ρ). With
inputs [z, i₁, i₂] and outputs alike (z merged, i_m and o_m kept by model m)

    W_zz = ½ (W₁ + W₂),   W_oₘz = W_m,   W_zi_m = ½ W_m,   W_oₘiₘ = W_m,   W_o₁i₂ = W_o₂i₁ = 0

in the order matched, and the mean along axes that no group stands along (inputs, outputs). ρ is
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
from plait.merging.matching import likeness, match_weights
from plait.merging.pool import Array, Pool
from plait.merging.units import merge_units, units
from plait.method import Card, Paper
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
            "without inputs there is no least squares: the result is where the authors' begins",
            "for units that do not correlate that beginning solves the least squares",
            "outputs are the mean of both models'; the authors also keep a head for each",
            "one share for all groups; the authors find one for each under a budget of operations",
            "the count kept is exact; the authors take all pairs below a quantile",
        ),
    )
    count: ClassVar[int | None] = 2
    separate: float = 0.0
    rules: Mapping[str, Sequence[str | None]] | Literal["sequence"] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.separate <= 1:
            raise ValueError(f"separate is a share from 0 to 1, not {self.separate:g}")

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Units found from names, and units said by rules."""
        return ({}, {"rules": {"trunk.weight": ["units", None], "trunk.bias": ["units"]}})

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:  # noqa: ARG002
        """Match, decide which pairs stay apart, and merge."""
        found = units(pool, self.rules)
        order = match_weights(pool, found)
        homes = {group: rows[1] for group, rows in order.items()}
        plan = {}
        for group, rows in order.items():
            alike = likeness(pool, found, list(found.of(group)), homes, 1)
            plan[group] = partial_homes(alike, rows, self.separate)
        widths = {group: int(rows.max()) + 1 for group, rows in plan.items()}
        evidence = {"units": dict(found.sizes), "widths": widths}
        return merge_units(pool, found, plan, sink, workers, evidence)
