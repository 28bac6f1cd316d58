"""Concrete subspace learning: a random mask of all task vectors, learned by entropy.

    θ^l = θ₀^l + Σ_m λ_m^l (μ^l ⊙ δ_m^l),   μ^l = μ̂ / mean μ̂,   μ̂ = σ((log u − log(1 − u) + x^l)/τ)

with δ_m^l = θ_m^l − θ₀^l at tensor l, x [*s] one logit for every weight, shared by the models, and
u [*s] uniform numbers, drawn anew at every step. x is learned by Adam so that Σ_t mean_rows
H(softmax z_t(x; θ)) falls, z_t the numbers of task t's own head. With ``inner="adamerging"`` each
step first moves λ from ``start`` by one step of Adam at rate ``inner_rate``, μ held fixed, and
learns x at the λ it gets to, on other rows; when x is learned, one mask is drawn and λ is learned
for it from ``start`` on. With ``inner="task_arithmetic"`` λ stays. The mean of a mask is 1 in every
tensor, so that no task vector shrinks. Memory holds about seven networks.

>>> import numpy as np, torch
>>> from plait.merging.base import Have
>>> from plait.merging.modules import ModuleBench
>>> from plait.merging.pool import Pool
>>> body, head = torch.nn.Linear(1, 2, bias=False), torch.nn.Identity()
>>> bench = ModuleBench(body, {"a": head}, {"a": torch.ones(8, 1)})
>>> pool = Pool({"a": {"weight": np.float32([[4], [0]])}}, base={"weight": np.float32([[1], [1]])})
>>> merged = Concrete(inner="task_arithmetic", steps=40, rate=0.3).merge(pool, Have(bench=bench))
>>> float(merged.tensors["weight"][0, 0]) > 1.9  # 1 + 0.3 · 3, and more where it is certain
True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from plait.merging.base import Have, Merged, Merger
from plait.merging.bench import array, keyed
from plait.merging.objectives import CLASSED, entropy
from plait.merging.pool import Array, Pool
from plait.merging.stage import Context, Edit
from plait.merging.tune import Learn, Mix, guarded
from plait.method import Card, Law, Need, Paper
from plait.weights.sinks import Sink


@dataclass(frozen=True, kw_only=True)
class Concrete(Merger):
    """A mask learned for ``steps``, then coefficients for ``tuning`` steps, on unlabelled rows."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="concrete",
        summary="Task vectors under one mask that is learned by the entropy of the predictions.",
        paper=Paper(
            title=(
                "Concrete Subspace Learning based Interference Elimination for Multi-task Model "
                "Fusion"
            ),
            authors=(
                "Anke Tang and Li Shen and Yong Luo and Liang Ding and Han Hu and Bo Du and "
                "Dacheng Tao"
            ),
            year=2023,
            url="https://arxiv.org/abs/2312.06173",
        ),
        needs=frozenset({Need.BASE, Need.UNLABELLED, Need.HEADS, Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "λ's step starts at the weights of its start; the authors' code at those of the last",
            "the rows are training rows; the authors tune on the test images",
            "λ keeps its start where tuning it does not lower the validation loss",
        ),
    )
    losses: ClassVar[frozenset[str] | None] = CLASSED
    inner: Literal["adamerging", "task_arithmetic"] = "adamerging"
    start: float = 0.3
    logits: float = 0.0
    temperature: float = 0.5
    steps: int = 1000
    rate: float = 1e-3
    inner_rate: float = 1.0
    tuning: int = 1000
    tuning_rate: float = 1e-3
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature:g}")
        self._learn(self.steps, self.rate)
        self._learn(self.tuning, self.tuning_rate)

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """A mask of ones, nothing learned or scaled."""
        return {**super().neutral(), "logits": 1e3, "tuning": 0}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Around both mergers."""
        few = {"steps": 1, "tuning": 1, "batch": 4, "rate": 0.1, "tuning_rate": 0.1}
        return (few, {**few, "inner": "task_arithmetic"})

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Learn the mask, draw it, learn the coefficients for it, and merge."""
        bench = have.live
        masked = Masked(masks={})
        mix = Mix(pool, bench, edits=(masked,), workers=workers)
        start = torch.full((len(mix.names), len(pool)), self.start, dtype=torch.float64)
        logits = Logits(mix, self.logits, self.temperature, self.rate, self.seed)
        entropies = self._masks(mix, masked, logits, start)
        masked.masks.update(logits.drawn(self.steps))
        steps = self.tuning if self.inner == "adamerging" else 0
        tuned, losses = self._learn(steps, self.tuning_rate).run(
            mix, start, lambda free: free * 1, entropy(bench)
        )
        found, told = guarded(mix, have, array(start), array(tuned), losses)
        told["mask"] = [entropies[0], entropies[-1]] if entropies else []
        return mix.merged(found, have, sink, workers, told)

    def _masks(self, mix: Mix, masked: Masked, logits: Logits, start: Tensor) -> list[float]:
        """Learn the logits; the objective at every step."""
        learn, aim = self._learn(self.steps, self.rate), entropy(mix.bench)
        free = start.clone().requires_grad_()
        adam = torch.optim.Adam([free], lr=self.inner_rate)
        told: list[float] = []
        for step in range(self.steps):
            masked.masks.update(logits.drawn(step))
            now = array(start)
            if self.inner == "adamerging":
                mix.place(now)
                mix.bench.forget()
                learn.gather(mix.bench, aim, 2 * step)
                free.data = start.clone()
                free.grad = torch.from_numpy(mix.pull())
                adam.step()
                now = array(free)
            mix.place(now)
            mix.bench.forget()
            loss = learn.gather(mix.bench, aim, 2 * step + 1)
            if not np.isfinite(loss):
                break
            told.append(loss)
            logits.learn(mix, now, step)
        mix.bench.forget()
        return told

    def _learn(self, steps: int, rate: float) -> Learn:
        return Learn(steps=steps, rate=rate, batch=self.batch, seed=self.seed)


@dataclass(frozen=True, eq=False, kw_only=True)
class Masked(Edit):
    """Multiply every model's delta by the mask of the tensor, [n] by its name."""

    masks: dict[str, Array]

    def __call__(self, deltas: Array, ctx: Context) -> Array:
        """Mask."""
        deltas *= self.masks[ctx.site.name][ctx.start : ctx.start + deltas.shape[1]]
        return deltas


class Logits:
    """The logits of a mask for all tensors of a mix, drawn and learned tensor by tensor."""

    def __init__(self, mix: Mix, fill: float, temperature: float, rate: float, seed: int) -> None:
        self.values = {
            site.name: torch.from_numpy(np.full(site.size, fill, site.working)).requires_grad_()
            for site in mix.sites
        }
        self._temperature = temperature
        self._seed = seed
        self._adam = torch.optim.Adam(list(self.values.values()), lr=rate)

    @torch.no_grad()
    def drawn(self, step: int) -> dict[str, Array]:
        """The masks [n] of a step."""
        return {name: array(self._mask(name, step)) for name in self.values}

    def learn(self, mix: Mix, coefficients: Array, step: int) -> None:
        """A step of Adam, from the gradient that the bench has gathered under the step's masks."""
        own = mix.bench.weights
        for site, row in zip(mix.sites, coefficients, strict=True):
            gradient, self.values[site.name].grad = own[site.name].grad, None
            if gradient is None:
                continue
            deltas, _ = mix.pool.block(site, 0, site.size, against_base=True)
            slope = torch.from_numpy(row.astype(deltas.dtype) @ deltas) * gradient.reshape(-1).cpu()
            self._mask(site.name, step).backward(slope)  # type: ignore[no-untyped-call]
        self._adam.step()

    def _mask(self, name: str, step: int) -> Tensor:
        values = self.values[name]
        drawn = keyed(self._seed, step, name).random(len(values))
        noise = torch.from_numpy(drawn).to(values)
        noise = torch.log(noise + 1e-8) - torch.log(1 - noise + 1e-8)
        soft = torch.sigmoid((noise + values) / self._temperature)
        return soft / soft.mean()
