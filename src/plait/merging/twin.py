"""Twin-Merging: a shared model, and for every row what is exclusive to the experts it needs.

    θ(x) = θ_s + Σ_m w_m(x) v_m,   v_m = SVD_r(θ_m − θ_s),   w = softmax(R(e(x)))  [M]

with θ_s = θ₀ + λ Σ_m δ_m, λ being ``scale``, and e(x) [d] the features that the shared network
alone makes of row x. Of a weight [o, n] the part v_m has rank r = ⌊``keep`` min(o, n)⌋; the weights
of layer norms are whole, biases stay shared. The router R (d → 2d → 2d → M, batch norm, leaky ReLU,
dropout) learns from ``rows`` rows of every task to tell the tasks. Each row runs twice: the second
time as ``change.around`` (:class:`~plait.merging.route.Chooser`) says, given the features of the
first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from plait.merging.base import Have, Merged, Pipeline
from plait.merging.bench import Bench, dealt, keyed
from plait.merging.exclusive import Choice, Exclusive, Router, Rows, split
from plait.merging.pool import Pool
from plait.merging.results import Change
from plait.merging.route import Route
from plait.merging.stages.sums import Sum
from plait.method import Card, Law, Need, Paper
from plait.weights.sinks import Sink

SIZE = 256  # rows that are run together


@dataclass(frozen=True, kw_only=True)
class Twin(Route):
    """Task arithmetic, and compressed differences to it that a trained router weighs by row."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="twin",
        summary="A shared model plus compressed experts, mixed for every row by a trained router.",
        paper=Paper(
            title="Twin-Merging: Dynamic Integration of Modular Expertise in Model Merging",
            authors=(
                "Zhenyi Lu and Chenghao Fan and Wei Wei and Xiaoye Qu and Dangyang Chen and "
                "Yu Cheng"
            ),
            year=2024,
            venue="Advances in Neural Information Processing Systems",
            url="https://arxiv.org/abs/2406.15479",
        ),
        needs=frozenset({Need.BASE, Need.ROUTER_DATA}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "the features that heads see are routed by; the authors take the mean over tokens",
            "the router of the last epoch is kept; the authors keep the best on the test rows",
            "tensors of other layers than linear, convolution, embedding and norm stay shared",
            "batches of the router are all of one size, drawn across epochs",
        ),
    )
    scale: float = 0.29
    keep: float = 0.1
    rows: int = 5500
    epochs: int = 50
    batch: int = 1024
    rate: float = 5e-4
    dropout: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1 or not 0 <= self.dropout < 1:
            raise ValueError("keep lies from 0 to 1, dropout from 0 to below 1")
        if self.rows < 1 or self.batch < 2 or self.epochs < 0:
            raise ValueError("rows must be at least 1, batch 2 and epochs 0")

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Parts of half the rank, and whole ones."""
        few = {"rows": 6, "epochs": 2, "batch": 6}
        return ({**few, "keep": 0.5}, {**few, "keep": 1.0})

    def lay(self, module: nn.Module, width: int, models: Sequence[str]) -> Change:
        """The experts' parts at every layer, and the router."""
        return self._laid(module, width, models)[0]

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Add up, take apart, and train the router."""
        bench = have.live
        line = Pipeline(combine=Sum(), scale=self.scale)
        merged = line.run(pool, replace(have, validation=None), sink, workers)
        bench.fill({site.name: merged.tensors[site.name] for site in pool.sites if site.floating})
        features = {task: self._features(bench, task) for task in pool.names}
        width = features[pool.names[0]].shape[1]
        change, parts = self._laid(bench.module, width, pool.names)
        sites = {name: site for site in pool.sites for name in (site.name, *site.aliases)}
        for name, part in parts.items():
            site = sites[name]
            values, _ = pool.block(site, 0, site.size, against_base=False)
            shared = np.asarray(merged.tensors[site.name], values.dtype)
            for model, own in enumerate(values.reshape(len(pool), *site.shape)):
                part.fill(model, own - shared)
        losses = self._train(change.around.router, features)
        with torch.no_grad():
            routes = {
                task: change.around.router(own).softmax(1).mean(0).tolist()
                for task, own in features.items()
            }
        told = {
            "models": list(pool.names),
            "routes": routes,
            "objective": losses,
            "parts": [*parts],
        }
        return replace(merged, evidence=told, change=change)

    def _laid(
        self, module: nn.Module, width: int, models: Sequence[str]
    ) -> tuple[Change, dict[str, Exclusive]]:
        rows, weight = Rows(), next(module.parameters())
        parts = split(module, len(models), self.keep, rows)
        choice = Choice(width, len(models), rows).to(weight).eval()
        return Change(around=choice), parts

    @torch.no_grad()
    def _features(self, bench: Bench, task: str) -> Tensor:
        """What the shared network makes of a task's rows, [N, d]."""
        pieces = [
            bench.run(task, rows).features
            for rows in bench.batches(task, self.rows, SIZE, self.seed)
        ]
        if pieces[0].ndim != 2:
            raise ValueError(
                f"twin routes whole rows, and task {task!r} has features for positions in them; "
                "leave it out, or take wemoe"
            )
        return torch.cat(pieces)

    def _train(self, router: Router, features: Mapping[str, Tensor]) -> list[float]:
        """Train the router to tell the tasks, whatever their order; the losses, first and last."""
        names = sorted(features)
        x = torch.cat([features[name] for name in names])
        own = torch.tensor([list(features).index(name) for name in names], device=x.device)
        counts = torch.tensor([len(features[name]) for name in names], device=x.device)
        y = torch.arange(len(names), device=x.device).repeat_interleave(counts)
        router.start(self.seed, list(features))
        batch, losses = min(self.batch, len(x)), []
        steps = self.epochs * max(len(x) // batch, 1)
        adam = torch.optim.AdamW(router.parameters(), lr=self.rate, weight_decay=0.0)
        router.train()
        for step in range(steps):
            draw = keyed(self.seed, "twin", step)
            rows = torch.from_numpy(dealt(self.seed, "twin", len(x), batch, step)).to(x.device)
            adam.param_groups[0]["lr"] = self.rate * (1 - step / steps)
            adam.zero_grad()
            scores = router(x[rows], draw, self.dropout)[:, own]
            loss = nn.functional.cross_entropy(scores, y[rows])
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(router.parameters(), 1.0)
            adam.step()
            losses.append(float(loss.detach()))
        adam.zero_grad()
        router.eval()
        return losses[:1] + losses[-1:]
