"""Activation-informed merging: pull the weights that the base relies on back towards it.

    W = W₀ + (1 − (1 − ω) s) ⊙ ΔW,   s = a / max a,   a = mean_x |x|

after any method that merges task vectors, with ΔW [*s] its merged difference at a weight and x [n]
the inputs that reach the weight's layer when the *base* runs on a few unlabelled rows of every
task; s [n] is broadcast along the inputs of a linear layer and the channels of a layer norm. So the
channel with the largest inputs keeps the share ω of its change, and one without inputs all of it.
All other tensors are as the method merges them.

>>> import numpy as np, torch
>>> from plait.merging.base import Have
>>> from plait.merging.modules import ModuleBench
>>> from plait.merging.pool import Pool
>>> inputs = {"a": torch.tensor([[4.0, -1.0]]), "b": torch.tensor([[-4.0, 3.0]])}
>>> head = torch.nn.Linear(1, 1)
>>> bench = ModuleBench(torch.nn.Linear(2, 1, bias=False), {"a": head, "b": head}, inputs)
>>> pool = Pool({"a": {"weight": np.float32([[10, 0]])}, "b": {"weight": np.float32([[0, 10]])}},
...             base={"weight": np.float32([[0, 0]])})
>>> Aim(method={"task_arithmetic": {"scale": 1.0}}).merge(pool, Have(bench=bench)).tensors["weight"]
array([[4., 7.]], dtype=float32)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from plait.merging.base import Have, Merged, Merger, inner_pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stage import Context, Finish, Grain
from plait.merging.statistics.base import gather, stacked
from plait.merging.statistics.inputs import Magnitudes
from plait.method import Card, Method, Need, Paper
from plait.weights.sinks import Sink


@dataclass(frozen=True, kw_only=True)
class Aim(Merger):
    """Merge by ``method``, then relax by the base's activations on ``rows`` rows of each task."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="aim",
        summary="Whatever is merged is pulled back to the base where its activations are large.",
        paper=Paper(
            title="Activation-Informed Merging of Large Language Models",
            authors=(
                "Amin Heyrani Nobari and Kaveh Alim and Ali ArjomandBigdeli and Akash Srivastava "
                "and Faez Ahmed and Navid Azizan"
            ),
            year=2025,
            venue="Advances in Neural Information Processing Systems",
            url="https://arxiv.org/abs/2502.02421",
        ),
        needs=frozenset({Need.BASE, Need.UNLABELLED}),
        deviations=(
            "rows of the tasks, all tasks alike; the authors calibrate on general text",
            "linear layers and layer norms only; the authors take any module with a weight",
            "padded positions are left out",
        ),
    )
    parts: ClassVar[Mapping[str, str]] = {"method": "merging"}
    method: Method | str | Mapping[str, Any] = "task_arithmetic"
    omega: float = 0.4
    rows: int = 32
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.omega <= 1:
            raise ValueError(f"omega must lie in [0, 1], got {self.omega:g}")
        self._magnitudes()

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """Nothing relaxed, and nothing scaled by the method."""
        return {"omega": 1.0, "method": {"task_arithmetic": {"scale": 1.0}}}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """After task arithmetic and after TIES."""
        return ({"rows": 6}, {"rows": 6, "method": {"ties": {"scale": 1.0}}, "omega": 0.2})

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """One pass of the base over all rows, then the method with one more finishing touch."""
        line = inner_pipeline(self.method, pool, self.card.name)
        shares = self._shares(pool, have)
        relaxed = replace(line, finish=(*line.finish, Relaxed(shares=shares, omega=self.omega)))
        merged = relaxed.run(pool, have, sink, workers)
        told = {**merged.evidence, "relaxed": sorted(shares)}
        return replace(merged, evidence=told)

    def _shares(self, pool: Pool, have: Have) -> dict[str, Array]:
        """The shares s [n] by the name of the weight."""
        nobody: list[str | None] = [None] * len(pool)
        found = gather(self._magnitudes(), have.live, pool, nobody)
        sites = {site.name: site for source in found.values() for site in source.sites.values()}
        shares = {}
        for name, site in sites.items():
            means = stacked(found, site, 0, site.size).mean(0, dtype=np.float64)
            shares[name] = means / (means.max() or 1.0)
        flat = [site.name for site in pool.sites if len(site.shape) < 3]  # no convolutions
        return {name: shares[name] for name in flat if name in shares}

    def _magnitudes(self) -> Magnitudes:
        return Magnitudes(rows=self.rows, size=self.batch, seed=self.seed)


@dataclass(frozen=True, eq=False, kw_only=True)
class Relaxed(Finish):
    """Shrink a weight's merged delta along its inputs, by shares [n] of the tensor's name."""

    grain: ClassVar[Grain] = Grain.ROW
    shares: Mapping[str, Array]
    omega: float

    def __call__(self, delta: Array, ctx: Context) -> Array:
        """Multiply rows [rows, n] by 1 − (1 − ω) s."""
        found = self.shares.get(ctx.site.name)
        if found is not None:
            delta *= (1 - (1 - self.omega) * found).astype(delta.dtype)
        return delta
