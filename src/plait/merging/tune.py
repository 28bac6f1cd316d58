"""Coefficients that are learned: one for each model at every tensor, by gradients on a bench.

    θ^l = θ₀^l + Σ_m c_m^l δ_m^l,   ∂L/∂c_m^l = ⟨∂L/∂θ^l, δ_m^l⟩

with δ_m^l = θ_m^l − θ₀^l. Weights are formed, and inner products taken, a block at a time, so that
memory holds one network and its gradient however many models there are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plait.merging.bench import Bench, array, put
from plait.merging.engine import BLOCK, Engine
from plait.merging.have import Have
from plait.merging.objectives import Objective
from plait.merging.pipeline import Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.results import Merged
from plait.merging.stage import Edit
from plait.merging.stages.given import Given
from plait.merging.stages.sums import Sum, added, weigh
from plait.weights.sinks import Sink

log = logging.getLogger(__name__)


class Mix:
    """The base and weighted task vectors of a pool, ``edits`` applied, on a bench.

    ``names`` are the L floating tensors; coefficients are [L, M].
    """

    def __init__(
        self, pool: Pool, bench: Bench, *, edits: tuple[Edit, ...] = (), workers: int = 1
    ) -> None:
        self.pool = pool
        self.bench = bench
        self.edits = edits
        self.sites = [site for site in pool.sites if site.floating and site.size]
        self.names = tuple(site.name for site in self.sites)
        self._engine = Engine(pool, edits, np.ones(len(pool)), against_base=True, workers=workers)
        self._engine.settle()

    @property
    def memory(self) -> int:
        """About the bytes that tuning takes: the network, its gradient and the blocks in work."""
        wide = self.pool.working.itemsize
        model = sum(site.size for site in self.sites) * wide
        largest = max((site.size for site in self.sites), default=0)
        block = largest if self._engine.grain else min(largest, BLOCK)
        return 2 * model + 2 * (len(self.pool) + 2) * block * wide

    def place(self, coefficients: Array) -> None:
        """Put the mixed weights on the bench."""
        own = self.bench.weights
        for site, row in zip(self.sites, coefficients, strict=True):
            mine = row.astype(site.working)
            for block in self._engine.blocks(site):
                assert block.base is not None
                deltas = block.deltas.reshape(len(self.pool), -1)
                weigh(deltas, mine)
                put(own[site.name], block.start, block.base + added(deltas, into=deltas[0]))

    def pull(self) -> Array:
        """The gradient [L, M] of the coefficients, from the one that the bench has gathered."""
        found = np.zeros((len(self.sites), len(self.pool)))
        own = self.bench.weights
        for total, site in zip(found, self.sites, strict=True):
            gradient = own[site.name].grad
            if gradient is None:  # a buffer, or what no loss depends on
                continue
            slope = array(gradient).reshape(-1).astype(site.working, copy=False)
            for block in self._engine.blocks(site):
                deltas = block.deltas.reshape(len(self.pool), -1)
                total += deltas @ slope[block.start : block.start + deltas.shape[1]]
        return found

    def merged(
        self, coefficients: Array, have: Have, sink: Sink, workers: int, found: Mapping[str, Any]
    ) -> Merged:
        """The mixed weights in a sink, and the coefficients with what else was found."""
        given = Given.of(self.names, coefficients)
        line = Pipeline(edits=self.edits, coefficients=(given,), combine=Sum())
        told = {"models": list(self.pool.names), "coefficients": dict(given.rows)}
        merged = line.run(self.pool, have, sink, workers)
        return Merged(tensors=merged.tensors, evidence={**found, **told})


@dataclass(frozen=True, kw_only=True)
class Learn:
    """How free values are learned: ``steps`` of Adam.

    A step sees ``batches`` of ``batch`` rows of every task; the objectives are added up. ``decay``
    shrinks the values by its share of the rate at every step, as AdamW does, ``clip`` bounds the
    norm of their gradient, ``cosine`` lets the rate fall to 0.
    """

    steps: int
    rate: float
    batch: int = 16
    batches: int = 1
    seed: int = 0
    decay: float = 0.0
    clip: float | None = None
    cosine: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or self.batches < 1:
            raise ValueError("steps must be 0 or more, batch and batches at least 1")

    def run(
        self,
        mix: Mix,
        start: Tensor,
        coefficients: Callable[[Tensor], Tensor],
        objective: Objective,
        *,
        project: Callable[[Tensor], object] | None = None,
        penalty: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, list[float]]:
        """Free values from ``start`` on, and the objective at every step.

        ``coefficients`` makes [L, M] of the free values; ``project`` puts them back where they may
        be after a step, ``penalty`` is a loss of them that is added to every step's objective, and
        not told with it. Stops before a step whose objective is not finite.
        """
        log.info("tuning takes about %.0f MB beside the models", mix.memory / 1e6)
        free = start.detach().clone().requires_grad_()
        adam = torch.optim.AdamW([free], lr=self.rate, weight_decay=self.decay)
        losses: list[float] = []
        for step in range(self.steps):
            made = coefficients(free)
            mix.place(array(made))
            mix.bench.forget()
            losses.append(self.gather(mix.bench, objective, step))
            if not np.isfinite(losses[-1]):
                break
            adam.zero_grad()
            torch.autograd.backward(made, torch.from_numpy(mix.pull()).to(made))
            if penalty is not None:
                penalty(free).backward()  # type: ignore[no-untyped-call]
            if self.clip is not None:
                torch.nn.utils.clip_grad_norm_([free], self.clip)
            if self.cosine:
                adam.param_groups[0]["lr"] = self.rate * (1 + cos(pi * step / self.steps)) / 2
            adam.step()
            if project is not None:
                with torch.no_grad():
                    project(free)
        mix.bench.forget()
        return free.detach(), losses

    def descend(self, bench: Bench, free: Sequence[Tensor], objective: Objective) -> list[float]:
        """Train tensors of modules on the bench in place; the objective at every step.

        Stops before a step whose objective is not finite.
        """
        adam = torch.optim.Adam(free, lr=self.rate)
        losses: list[float] = []
        for step in range(self.steps):
            adam.zero_grad()
            losses.append(self.gather(bench, objective, step, free))
            if not np.isfinite(losses[-1]):
                break
            adam.step()
        adam.zero_grad()
        return losses

    def gather(
        self,
        bench: Bench,
        objective: Objective,
        step: int,
        inputs: Sequence[Tensor] | None = None,
    ) -> float:
        """Add up the objective over a step's rows and, on the bench, its gradient."""
        total = 0.0
        for task in bench.tasks:
            for number in range(step * self.batches, (step + 1) * self.batches):
                loss = objective(task, bench.drawn(task, self.batch, number, self.seed))
                bench.backward(loss, inputs)
                total += float(loss.detach())
        return total


def guarded(
    mix: Mix, have: Have, start: Array, tuned: Array, losses: Sequence[float]
) -> tuple[Array, dict[str, Any]]:
    """The tuned coefficients, or the start where they are no better on validation; and why."""
    judged = None
    if have.validation is not None and losses and np.isfinite(losses).all():
        judged = []
        for coefficients in (start, tuned):
            mix.place(coefficients)
            judged.append(float(have.validation(mix.bench.state)))
    better, told = verdict(losses, judged)
    return tuned if better else start, told


def verdict(losses: Sequence[float], judged: Sequence[float] | None) -> tuple[bool, dict[str, Any]]:
    """Whether what was tuned is kept, and why, as evidence.

    ``losses`` are the objective at every step, ``judged`` the validation losses before and after.
    """
    if not losses:
        return False, {"objective": [], "kept": "the start: no step was taken"}
    if not np.isfinite(losses).all():
        return False, {"objective": [], "kept": "the start: the objective became infinite or NaN"}
    told: dict[str, Any] = {"objective": [losses[0], losses[-1]]}
    if judged is None:
        return True, {**told, "kept": "what was tuned, without a check on validation"}
    before, after = judged
    told["validation"] = [loss if np.isfinite(loss) else None for loss in judged]
    if after < before or not np.isfinite(before):
        return True, {**told, "kept": "what was tuned"}
    return False, {**told, "kept": "the start: tuning made the validation loss no better"}
