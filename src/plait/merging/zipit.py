"""ZipIt!: the units most alike become one, across models and within them.

For every group of units (neurons, channels) C [M d, M d] has the correlations of their weights,
over all tensors that hold them, the models' other axes being brought into the first one's order;
with ``by="activations"`` those of their activations on unlabelled rows of all tasks. The pair of
largest C becomes one unit, whose likeness to any other is the smaller of the two's, times α, until
d units are left; ⌊β d (M − 1)/M⌋ pairs of every model may be of its own. With
U_m [d, d] the membership of model m's units in the units that are left, and A_m [d, d] its
transpose over the number of members,

    W = Σ_m A_m W_m U_m  [o, i],   b = Σ_m A_m b_m  [o]

and the mean over models along axes that no group stands along (inputs, outputs, heads). ``rules``
say which axes hold the same units (:mod:`plait.merging.units`), ``"sequence"`` that numbered layers
follow one another; without them they are those of models laid out like Llama or BERT.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> a = {"0.weight": np.array([[1.0, 0.0], [0.0, 2.0]]), "1.weight": np.array([[3.0, 4.0]])}
>>> b = {name: w[::-1] if name == "0.weight" else w[:, ::-1] for name, w in a.items()}
>>> merged = Zipit(rules="sequence").merge(Pool({"a": a, "b": b})).tensors
>>> bool((merged["0.weight"] == a["0.weight"]).all()), merged["1.weight"]
(True, array([[3., 4.]]))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.base import Have, Merged, Merger
from plait.merging.matching import correlations, match_weights, zipped
from plait.merging.pool import Array, Pool
from plait.merging.units import Units, identity, merge_units, units
from plait.method import Card, Need, Paper
from plait.weights.sinks import Sink


@dataclass(frozen=True, kw_only=True)
class Zipit(Merger):
    """Units zipped by the correlations of their weights; α is ``again`` and β ``within``."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="zipit",
        summary="The units of all models that are most alike become one, wherever they stand.",
        paper=Paper(
            title="ZipIt! Merging Models from Different Tasks without Training",
            authors=(
                "George Stoica and Daniel Bolya and Jakob Bjorner and Pratik Ramesh and Taylor "
                "Hearn and Judy Hoffman"
            ),
            year=2024,
            venue="International Conference on Learning Representations",
            url="https://arxiv.org/abs/2305.03053",
        ),
        deviations=(
            "by weights where not told otherwise, of models that an assignment has aligned",
            "activations are what goes into all layers that read the units",
            "a budget of no pair within a model allows none; the authors' code allows one",
            "all layers are zipped and outputs averaged; heads that are to stay are kept out of it",
            "running statistics of batch norm are merged as weights are; measure them again",
        ),
    )
    again: float = 0.3
    within: float = 0.125
    rules: Mapping[str, Sequence[str | None]] | Literal["sequence"] | None = None
    by: Literal["weights", "activations"] = "weights"
    rows: int = 256
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, share in (("again", self.again), ("within", self.within)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, not {share:g}")
        if self.rows < 1 or self.batch < 1:
            raise ValueError("rows and batch must be at least 1")

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Units found from names, and units said by rules."""
        return ({}, {"rules": {"trunk.weight": ["units", None], "trunk.bias": ["units"]}})

    def needs(self) -> frozenset[Need]:
        """Unlabelled rows for activations."""
        return frozenset({Need.UNLABELLED} if self.by == "activations" else ())

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Zip group by group, and merge."""
        found = units(pool, self.rules)
        alike, order = self._alike(pool, have, found)
        plan, shared = {}, {}
        for group, size in found.sizes.items():
            homes = zipped(alike[group], len(pool), again=self.again, within=self.within)
            plan[group] = np.take_along_axis(homes, order[group], axis=1)
            held = np.zeros((size, len(pool)), bool)
            held[homes, np.arange(len(pool))[:, None]] = True
            shared[group] = int((held.sum(1) > 1).sum())
        evidence = {"units": dict(found.sizes), "shared": shared}
        return merge_units(pool, found, plan, sink, workers, evidence)

    def _alike(
        self, pool: Pool, have: Have, found: Units
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Correlations [M d, M d] by group, and the places [M, d] there of the models' units."""
        if self.by == "activations":
            from plait.merging.activations import of_units  # loads torch

            rows = {"rows": self.rows, "size": self.batch, "seed": self.seed}
            moments = of_units(have.live, pool, found, **rows)
            alike = {group: moments[group].correlations() for group in found.sizes}
            return alike, identity(found, len(pool))
        order = match_weights(pool, found)
        alike = {group: correlations(pool, found, group, order) for group in found.sizes}
        return alike, order
