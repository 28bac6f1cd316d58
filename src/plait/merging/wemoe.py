"""WEMoE: in every feed-forward part each row mixes the experts' weights by a router of its own.

    y = (W₀ + Σ_m r_m δ_m) x + b₀ + Σ_m r_m β_m,   r = W₂ ReLU(W₁ h + b₁) + b₂   [M]

for each linear layer (W₀, b₀) of the part, where δ_m and β_m are expert m's differences to it and h
is what goes into the part, r being averaged over a row's positions; no softmax, no clamp. All other
tensors are those of task arithmetic with ``scale``. W₁ and W₂ start near zero and b₂ at ``scale``,
so that it begins as task arithmetic everywhere; only the routers are trained, by the entropy of the
predictions on unlabelled rows. With ``hidden`` 0 the router is the constant b₂.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from plait.merging.base import Have, Merged, Pipeline
from plait.merging.bench import Bench, keyed, put
from plait.merging.objectives import CLASSED, entropy
from plait.merging.pool import Pool
from plait.merging.results import Change
from plait.merging.route import Part, Route, Router, feed_forward, route
from plait.merging.stages.sums import Sum
from plait.merging.tune import Learn, verdict
from plait.method import Card, Law, Need, Paper
from plait.weights.sinks import Sink

ROWS = 64  # of each task, from which it is told what the routers choose


@dataclass(frozen=True, kw_only=True)
class Wemoe(Route):
    """Routed feed-forward parts, everything else by task arithmetic."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="wemoe",
        summary="Routers mix the experts' feed-forward weights for every row; the rest is summed.",
        paper=Paper(
            title="Merging Multi-Task Models via Weight-Ensembling Mixture of Experts",
            authors=(
                "Anke Tang and Li Shen and Yong Luo and Nan Yin and Lefei Zhang and Dacheng Tao"
            ),
            year=2024,
            venue="International Conference on Machine Learning",
            url="https://arxiv.org/abs/2402.00433",
        ),
        needs=frozenset({Need.BASE, Need.UNLABELLED, Need.HEADS, Need.BACKWARD, Need.ROUTER_DATA}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "padded positions are left out of the average over positions",
            "networks without transformer blocks are routed in every container of linear layers",
            "the rows are training rows without their labels; the authors tune on the test images",
            "the start is kept where training does not lower the validation loss",
        ),
    )
    losses: ClassVar[frozenset[str] | None] = CLASSED
    scale: float = 0.3
    hidden: int | None = None
    averaged: bool = True
    steps: int = 1000
    rate: float = 1e-4
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.hidden is not None and self.hidden < 0:
            raise ValueError(f"hidden must be 0 or more, got {self.hidden}")
        self._learn()

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Routers of two layers, and constants."""
        few = {"steps": 2, "batch": 4}
        return (few, {**few, "hidden": 0, "averaged": False})

    def lay(self, module: nn.Module, width: int, models: Sequence[str]) -> Change:  # noqa: ARG002
        """A router for every feed-forward part, the experts' differences at its layers."""
        self._laid(module, models)
        return Change()

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Add up, route, train the routers."""
        bench = have.live
        if not feed_forward(bench.module):
            raise ValueError("wemoe: the network has no linear layers that train")
        line = Pipeline(combine=Sum(), scale=self.scale)
        merged = line.run(pool, replace(have, validation=None), sink, workers)
        bench.fill({site.name: merged.tensors[site.name] for site in pool.sites if site.floating})
        parts = self._laid(bench.module, pool.names)
        for number, part in enumerate(parts):
            self._fill(bench, pool, part)
            self._start(part.router, number)
        told = self._train(bench, have, [part.router for part in parts])
        told["models"] = list(pool.names)
        told["routes"] = {task: _chosen(bench, task, parts) for task in bench.tasks}
        return replace(merged, evidence=told, change=Change())

    def _laid(self, module: nn.Module, models: Sequence[str]) -> list[Part]:
        found = []
        for paths in feed_forward(module):
            first = module.get_submodule(paths[0])
            assert isinstance(first, nn.Linear)
            hidden = first.in_features if self.hidden is None else self.hidden
            found.append(route(module, paths, len(models), hidden))
        return found

    def _fill(self, bench: Bench, pool: Pool, part: Part) -> None:
        """The base's weights and the experts' differences, in the layers of a part."""
        sites = {name: site for site in pool.sites for name in (site.name, *site.aliases)}
        own = bench.weights
        for path, experts in part.experts.items():
            for name, deltas in (("weight", experts.deltas), ("bias", experts.shifts)):
                site = sites.get(f"{path}.{name}".lstrip("."))
                if site is not None:
                    values, base = pool.block(site, 0, site.size, against_base=True)
                    assert base is not None
                    put(own[site.name], 0, base)
                    put(deltas, 0, values.reshape(-1))

    def _start(self, router: Router, number: int) -> None:
        draw = keyed(self.seed, "router", number)
        for tensor in (router.inner, router.outer):
            put(tensor, 0, 0.01 * draw.standard_normal(tensor.numel()))
        put(router.outer_bias, 0, np.full(len(router.outer_bias), self.scale))

    def _train(self, bench: Bench, have: Have, routers: list[Router]) -> dict[str, Any]:
        """Train the routers, and put them back where validation says so; what was found."""
        free = [tensor for router in routers for tensor in router.parameters()]
        before = [tensor.detach().clone() for tensor in free]
        judge = None if have.validation is None or not self.steps else have.validation
        judged = None if judge is None else [float(judge(bench.state))]
        for router in routers:
            router.now.averaged = self.averaged
        losses = self._learn().descend(bench, free, entropy(bench))
        for router in routers:
            router.now.averaged = False
        if judge is not None and judged is not None:
            judged.append(float(judge(bench.state)))
        better, told = verdict(losses, judged)
        if not better:
            with torch.no_grad():
                for tensor, value in zip(free, before, strict=True):
                    tensor.copy_(value)
        return told

    def _learn(self) -> Learn:
        return Learn(steps=self.steps, rate=self.rate, batch=self.batch, seed=self.seed)


@torch.no_grad()
def _chosen(bench: Bench, task: str, parts: Sequence[Part]) -> list[float]:
    """The mean weights of the models over parts and some rows of a task. [M]"""
    bench.run(task, bench.chosen(task, ROWS, 0))
    settled = [part.router.now.weights for part in parts]
    found = torch.stack([weights.mean(0) for weights in settled if weights is not None])
    return [float(value) for value in found.mean(0)]
