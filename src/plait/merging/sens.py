"""Sens-Merging: weigh each layer of a model by how sensitive its task is to it, then merge.

    σ_m^l = softmax_m(α_m^l τ_m / temperature),   δ_m^l → M σ_m^l δ_m^l
    α_m^l = s_m^l / ‖s_m‖₂,   s_m^l = 1/B Σ_rows Σ_{w ∈ l} |w ∂loss/∂w|
    τ_m = Σ_{t≠m} g_mt / Σ_j Σ_{t≠j} g_jt,   g_mt = mean_rows ‖z_t(x; θ_m) − z_t(x; θ_t)‖₂

before any method that merges task vectors δ_m = θ_m − θ₀. l are layers: the tensors whose names
have the same number, or else those of one module; s is taken at model m on labelled rows of its own
task, and z_t are the numbers of task t's head on rows x of task t. So the weights of a layer sum to
M; at a high temperature each is 1.

>>> import numpy as np, torch
>>> from plait.merging.base import Have
>>> from plait.merging.modules import ModuleBench
>>> from plait.merging.pool import Pool
>>> head, rows = torch.nn.Identity(), torch.eye(2)
>>> bench = ModuleBench(torch.nn.Linear(2, 1, bias=False), {"a": head, "b": head},
...     {"a": rows, "b": rows}, {"a": torch.zeros(2), "b": torch.zeros(2)}, losses="squared")
>>> pool = Pool({"a": {"weight": np.float32([[1, 0]])}, "b": {"weight": np.float32([[0, 1]])}},
...             base={"weight": np.float32([[0, 0]])})
>>> half = {"task_arithmetic": {"scale": 0.5}}
>>> Sens(method=half).merge(pool, Have(bench=bench)).tensors["weight"]
array([[0.5, 0.5]], dtype=float32)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from plait.merging.base import Have, Merged, Merger, inner_pipeline
from plait.merging.bench import Bench
from plait.merging.engine import BLOCK
from plait.merging.pool import Array, Pool
from plait.merging.stages.given import Given
from plait.merging.statistics.base import gather, stacked
from plait.merging.statistics.slopes import Slopes
from plait.method import Card, Law, Method, Need, Paper
from plait.weights.sinks import Sink
from plait.weights.sites import Site


@dataclass(frozen=True, kw_only=True)
class Sens(Merger):
    """Weigh layers by sensitivities from ``rows`` labelled rows of each task, then ``method``."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="sens",
        summary="Layers of task vectors weighed by how sensitive tasks are to them, then merged.",
        paper=Paper(
            title=(
                "Sens-Merging: Sensitivity-Guided Parameter Balancing for Merging Large Language "
                "Models"
            ),
            authors=(
                "Shuqi Liu and Han Wu and Bowei He and Xiongwei Han and Mingxuan Yuan and "
                "Linqi Song"
            ),
            year=2025,
            venue="Findings of the Association for Computational Linguistics",
            url="https://arxiv.org/abs/2502.12420",
        ),
        needs=frozenset({Need.BASE, Need.LABELLED, Need.HEADS, Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "τ grows with the distance of outputs, as in a public reimplementation",
            "sign and norm of τ were not checked in the paper itself",
            "outputs are compared through the frozen head of the rows' task",
            "a coefficient of the method itself stays: 0.3 for task arithmetic without validation",
        ),
    )
    parts: ClassVar[Mapping[str, str]] = {"method": "merging"}
    method: Method | str | Mapping[str, Any] = "task_arithmetic"
    temperature: float = 1.0
    rows: int = 100
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature:g}")
        self._slopes()

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """Nothing scaled by the method."""
        return {"method": {"task_arithmetic": {"scale": 1.0}}}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Before task arithmetic."""
        return ({"rows": 2, "temperature": 0.1},)

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Gradients and outputs of every model, then the method with one more coefficient."""
        line = inner_pipeline(self.method, pool, self.card.name)
        sites = tuple(site for site in pool.sites if site.floating and site.size)
        layers = [layer(site) for site in sites]
        shares = self._sensitivities(pool, have.live, sites, layers)
        reach = self._reach(pool, have.live)
        raised = np.exp(shares * reach / self.temperature)  # of numbers from 0 to 1
        weights = len(pool) * raised / raised.sum(1, keepdims=True)
        given = Given.of(tuple(site.name for site in sites), weights)
        told = {
            "models": list(pool.names),
            "coefficients": dict(given.rows),
            "transfer": dict(zip(pool.names, reach.tolist(), strict=True)),
        }
        weighed = replace(line, coefficients=(*line.coefficients, given))
        merged = weighed.run(pool, have, sink, workers)
        return replace(merged, evidence={**merged.evidence, **told})

    def _sensitivities(
        self, pool: Pool, bench: Bench, sites: tuple[Site, ...], layers: list[str]
    ) -> Array:
        """α [L, M], for every tensor that of its layer."""
        found = gather(self._slopes(), bench, pool)
        sums = {name: np.zeros(len(pool)) for name in layers}
        for site, name in zip(sites, layers, strict=True):
            if not all(site.name in one.names for one in found.values()):
                continue
            for start in range(0, site.size, BLOCK):
                stop = min(start + BLOCK, site.size)
                values, _ = pool.block(site, start, stop, against_base=False)
                moved = np.abs(values) * stacked(found, site, start, stop)
                sums[name] += moved.sum(1, dtype=np.float64)
        norms = np.sqrt(sum(np.square(one) for one in sums.values()))
        return np.array([sums[name] / np.where(norms > 0, norms, 1) for name in layers])

    @torch.no_grad()
    def _reach(self, pool: Pool, bench: Bench) -> Array:
        """τ [M], from the outputs of every model on every task's rows."""
        seen = {}
        for model in pool.names:
            bench.load(pool, model)
            for task in pool.names:
                batches = bench.batches(task, self.rows, self.batch, self.seed)
                seen[model, task] = torch.cat([bench.run(task, rows).raw for rows in batches])
        far = [
            sum(
                float((seen[model, task] - seen[task, task]).norm(dim=1).double().mean())
                for task in pool.names
                if task != model
            )
            for model in pool.names
        ]
        total = float(np.sum(sorted(far)))
        return np.array(far) / total if total else np.full(len(far), 1 / len(far))

    def _slopes(self) -> Slopes:
        return Slopes(rows=self.rows, size=self.batch, seed=self.seed)


def layer(site: Site) -> str:
    """The name of the layer that a tensor is in."""
    return site.name.rpartition(".")[0] if site.depth is None else str(site.depth)
