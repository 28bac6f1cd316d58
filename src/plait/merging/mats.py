"""MaTS: match the models in their task subspaces, a linear system solved by conjugate gradients.

    (Σ_m C_m) vec W = Σ_m C_m vec W_m,   C_m = O_m ⊗ G_m

for the weight W [o, n] of every linear layer, or convolution laid out flat, G_m [n, n] the mean of
x xᵀ over the inputs x that reach it when model m runs on rows of its own task and O_m [o, o] that
of the gradients at its outputs (K-FAC's Fisher information, labels in exact expectation).
``subspace`` "gram" sets O_m to the identity (RegMean's system), "fisher" takes the diagonal of the
Fisher information, for every tensor, and "identity" neither, so that the average solves it. At most
``steps`` iterations are taken, from the models' average or, with ``start`` a number, from the base
plus that multiple of the task vectors; a singular system keeps its start where no data point. Off
their diagonals G_m and O_m are multiplied by ``alpha``. Other tensors are averaged.

>>> import numpy as np, torch
>>> from plait.merging.base import Have
>>> from plait.merging.modules import ModuleBench
>>> from plait.merging.pool import Pool
>>> inputs = {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[0.0, 1.0]])}
>>> heads = {"a": torch.nn.Linear(1, 1), "b": torch.nn.Linear(1, 1)}
>>> bench = ModuleBench(torch.nn.Linear(2, 1, bias=False), heads, inputs, losses="squared")
>>> pool = Pool({"a": {"weight": np.float32([[3, 7]])}, "b": {"weight": np.float32([[9, 5]])}})
>>> Mats().merge(pool, Have(bench=bench)).tensors["weight"]
array([[3., 5.]], dtype=float32)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

from plait.merging.base import Have, Merged, Merger
from plait.merging.bench import Bench
from plait.merging.pool import Array, Pool
from plait.merging.results import stored, write
from plait.merging.stages.descent import damped
from plait.merging.stages.sums import added
from plait.merging.statistics.base import Statistic, gather, stacked
from plait.merging.statistics.fisher import Diagonal
from plait.merging.statistics.inputs import Grams
from plait.merging.statistics.outputs import OutputGrams
from plait.method import Card, Law, Need, Paper
from plait.weights.sinks import Sink
from plait.weights.sites import Site
from plait.weights.sources import Source

Operator = Callable[[Array], Array]  # [*s] → [*s]
Found = tuple[Mapping[str, Source], ...]  # each kind of statistic, by model


@dataclass(frozen=True, kw_only=True)
class Mats(Merger):
    """A linear system for every tensor, from ``rows`` unlabelled rows of each task."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="mats",
        summary="Models matched where their tasks' data lie, by conjugate gradients.",
        paper=Paper(
            title="Merging by Matching Models in Task Parameter Subspaces",
            authors="Derek Tam and Mohit Bansal and Colin Raffel",
            year=2024,
            venue="Transactions on Machine Learning Research",
            url="https://arxiv.org/abs/2312.04339",
        ),
        needs=frozenset({Need.UNLABELLED, Need.HEADS, Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "labels in exact expectation; the authors take those given (empirical Fisher)",
            "starts at the average unless told otherwise; the authors at task arithmetic's weights",
            "the tolerance is relative to the residual at the start, not to the right-hand side",
            "padded positions are left out of the inputs' matrices",
            "no full Fisher matrix for tiny vectors",
        ),
    )
    subspace: Literal["kfac", "gram", "fisher", "identity"] = "kfac"
    start: float | None = None
    steps: int = 100
    tolerance: float = 1e-6
    alpha: float = 1.0
    rows: int = 1000
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], got {self.alpha:g}")
        if self.steps < 0 or not self.tolerance > 0:
            raise ValueError("steps must be 0 or more, and tolerance above 0")
        self._statistics()

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """A few steps, as rounding grows with them."""
        return ({"steps": 2, "rows": 4}, {"steps": 2, "rows": 4, "subspace": "gram", "start": 0.5})

    def needs(self) -> frozenset[Need]:
        """What its subspace is found from, and a base to start from one."""
        less = {"identity": frozenset[Need](), "gram": frozenset({Need.UNLABELLED})}
        seeing = less.get(self.subspace, self.card.needs)
        return seeing if self.start is None else seeing | {Need.BASE}

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """One or two statistics of every model, then a system for every tensor they know."""
        found = self._found(have.bench, pool)
        solved: dict[str, dict[str, float]] = {}

        def place(site: Site) -> None:
            start, values = self._start(pool, site)
            system = self._system(found, site)
            if system is not None:
                start, solved[site.name] = self._solve(start, values, *system)
            sink.write(site, 0, stored(start.reshape(-1).astype(site.working), site))

        write(pool, sink, place, workers=workers)
        told = {name: solved[name] for name in sorted(solved)}
        return Merged(tensors=sink.tensors, evidence={"solved": told})

    def _statistics(self) -> tuple[Statistic, ...]:
        rows, size, seed = self.rows, self.batch, self.seed
        grams = Grams(rows=rows, size=size, seed=seed)
        return {
            "kfac": (grams, OutputGrams(rows=rows, size=size, seed=seed)),
            "gram": (grams,),
            "fisher": (Diagonal(rows=rows, seed=seed),),
            "identity": (),
        }[self.subspace]

    def _found(self, bench: Bench | None, pool: Pool) -> Found:
        if bench is None:  # the identity looks at no data
            return ()
        return tuple(gather(statistic, bench, pool) for statistic in self._statistics())

    def _start(self, pool: Pool, site: Site) -> tuple[Array, Array]:
        """Where a tensor starts [*s], in float64, and the models' values [M, *s]."""
        values, _ = pool.block(site, 0, site.size, against_base=False)
        if self.start is None:
            start = added(values.astype(np.float64)) / len(pool)
        else:
            deltas, base = pool.block(site, 0, site.size, against_base=True)
            assert base is not None
            start = base + self.start * added(deltas.astype(np.float64))
        return start.reshape(_flat(site)), values.reshape(-1, *_flat(site))

    def _system(self, found: Found, site: Site) -> tuple[Operator, ...] | None:
        """The C_m, by model; None for a tensor that they do not know."""
        known = all(site.name in one.names for by_model in found for one in by_model.values())
        if not found or not known:
            return None
        if self.subspace == "fisher":
            shares = stacked(found[0], site, 0, site.size).astype(np.float64)
            return tuple(_diagonal(share.reshape(_flat(site))) for share in shares)
        sides = _flat(site)[::-1]
        matrices = [
            [damped(one.reshape(side, side), self.alpha) for one in stacked(by, site, 0, side**2)]
            for by, side in zip(found, sides, strict=False)
        ]
        return tuple(_kronecker(*pair) for pair in zip(*matrices, strict=True))

    def _solve(
        self, start: Array, values: Array, *system: Operator
    ) -> tuple[Array, dict[str, float]]:
        """The weights after conjugate gradients from the start, and how far that got."""
        slope = sum(
            (one(value - start) for one, value in zip(system, values, strict=True)),
            np.zeros(start.shape),
        )
        size, taken = float(np.linalg.norm(slope)), [0]

        def total(flat: Array) -> Array:
            step = flat.reshape(start.shape)
            return np.asarray(sum(one(step) for one in system)).reshape(-1)

        def count(_: Array) -> None:
            taken[0] += 1

        if not self.steps or not size:
            return start, {"steps": 0, "residual": 1.0 if size else 0.0}
        operator = LinearOperator((start.size, start.size), matvec=total, dtype=np.float64)
        right, most = slope.reshape(-1), self.steps
        step, _ = cg(operator, right, rtol=self.tolerance, maxiter=most, callback=count)
        left = float(np.linalg.norm(right - total(step))) / size
        return start + step.reshape(start.shape), {"steps": taken[0], "residual": left}


def _flat(site: Site) -> tuple[int, ...]:
    """A tensor's shape as a matrix of outputs by inputs, or as a vector."""
    return (site.shape[0], site.size // site.shape[0]) if len(site.shape) > 1 else (site.size,)


def _diagonal(share: Array) -> Operator:
    return lambda step: share * step


def _kronecker(gram: Array, slopes: Array | None = None) -> Operator:
    """W → O W G."""
    return lambda step: np.asarray((step if slopes is None else slopes @ step) @ gram)
