"""ATM: tune on every task for a moment from one place, merge, and go on from the merge.

    τ_t = tune(θᵏ; task t) − θᵏ,   θᵏ⁺¹ = θᵏ + (α/T) Σ_t τ_t

for k from 0 to below ``rounds``; θ⁰ is the base, or what ``method`` merges the models to. Tuning is
``epochs`` passes over the task's labelled rows with its own head, which stays as it is, and an
optimiser that starts anew every round. With one step over all rows by plain gradients a round is
exactly a step on the mean of the tasks' losses, at α times the rate. α is ``scale``. Where there
are validation rows, the round of the lowest loss is kept, be it the start. Memory holds about seven
networks, however many tasks there are.

>>> import numpy as np, torch
>>> from plait.merging.base import Have
>>> from plait.merging.modules import ModuleBench
>>> from plait.merging.pool import Pool
>>> body, head = torch.nn.Linear(1, 1, bias=False), torch.nn.Identity()
>>> rows = {"a": torch.ones(8, 1), "b": torch.ones(8, 1)}
>>> targets = {"a": torch.full((8,), 1.0), "b": torch.full((8,), 3.0)}
>>> bench = ModuleBench(body, {"a": head, "b": head}, rows, targets, losses="squared")
>>> zero = {"weight": np.float32([[0]])}
>>> pool = Pool({"a": zero, "b": zero}, base=zero)
>>> merged = Atm(optimiser="sgd", rate=0.1, rounds=40).merge(pool, Have(bench=bench))
>>> merged.tensors["weight"].round(2)
array([[2.]], dtype=float32)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from plait.merging.base import Have, Merged, Merger
from plait.merging.bench import Bench, array, shuffled
from plait.merging.objectives import supervised
from plait.merging.pool import Pool
from plait.merging.results import stored, write
from plait.merging.route import Route
from plait.method import Card, Law, Method, MethodError, Need, Paper, resolve
from plait.weights.sinks import Memory, Sink
from plait.weights.sites import Site


@dataclass(frozen=True, kw_only=True)
class Atm(Merger):
    """Alternate short tuning of every task and merging, from the base or from a merge."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="atm",
        summary="Rounds of short tuning on every task from one place, merged by their mean.",
        paper=Paper(
            title="ATM: Improving Model Merging by Alternating Tuning and Merging",
            authors=(
                "Luca Zhou and Daniele Solombrino and Donato Crisostomi and Maria Sofia Bucarelli "
                "and Fabrizio Silvestri and Emanuele Rodol\u00e0"
            ),
            year=2024,
            url="https://arxiv.org/abs/2411.03055",
        ),
        needs=frozenset({Need.BASE, Need.LABELLED, Need.HEADS, Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "heads stay as they are; from the base they are all that the models give",
            "after a merge, too, rows are those for training; the paper takes validation rows",
            "optimiser, rate and batch are ours; the paper's text was not found to name them",
            "the round of the lowest validation loss is kept",
        ),
        exceptions={
            "no_change_gives_the_base": "it trains the weights on rows, whatever the models are",
        },
    )
    parts: ClassVar[Mapping[str, str]] = {"method": "merging"}
    method: Method | str | Mapping[str, Any] | None = None
    rounds: int = 10
    epochs: int = 1
    scale: float = 1.0
    optimiser: Literal["adam", "sgd"] = "adam"
    rate: float = 1e-4
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("rounds", 0), ("epochs", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.optimiser not in ("adam", "sgd"):
            raise ValueError(f"no optimiser {self.optimiser!r}; valid: adam, sgd")

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """The sum of the task vectors, without a round."""
        return {"rounds": 0, "method": {"task_arithmetic": {"scale": 1.0}}}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """From the base, and after TIES."""
        few = {"rounds": 2, "batch": 6, "rate": 0.01}
        return (few, {**few, "rounds": 1, "method": {"ties": {"scale": 1.0}}})

    def needs(self) -> frozenset[Need]:
        """Those of the method too."""
        inner = self._inner()
        return self.card.needs | (frozenset() if inner is None else inner.needs())

    def admit(self, losses: Mapping[str, str]) -> None:
        """The method may not be able to look at some tasks."""
        inner = self._inner()
        if inner is not None:
            inner.admit(losses)

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Start, go through the rounds, and keep the best."""
        bench, inner = have.live, self._inner()
        if inner is None:
            bench.load(pool, None)
        else:
            begin = inner.run(pool, have, Memory(), workers).tensors
            bench.fill({s.name: begin[s.name] for s in pool.sites if s.floating})
        best, kept, judged, told = copied(bench), 0, self._judged(have), []
        for number in range(1, self.rounds + 1):
            told.append(self._round(bench, number))
            if not np.isfinite(told[-1]):
                break
            judged += self._judged(have)
            if not judged or judged[-1] < judged[kept]:
                best, kept = copied(bench), number
        bench.forget()
        evidence = {
            "objective": [loss if np.isfinite(loss) else None for loss in told],
            "validation": [loss if np.isfinite(loss) else None for loss in judged],
            "kept": f"round {kept} of {self.rounds}" if kept else "the start",
        }

        def place(site: Site) -> None:
            sink.write(site, 0, stored(array(best[site.name]).reshape(-1), site))

        write(pool, sink, place, workers=workers)
        return Merged(tensors=sink.tensors, evidence=evidence)

    def _round(self, bench: Bench, number: int) -> float:
        """Tune on every task from here and step by the mean; the mean loss of all steps."""
        own = {n: p for n, p in bench.module.named_parameters() if p.requires_grad}
        origin = {name: tensor.detach().clone() for name, tensor in own.items()}
        moved = {name: torch.zeros_like(tensor) for name, tensor in origin.items()}
        losses = []
        for task in bench.tasks:
            restore(own, origin)
            losses.append(self._tune(bench, task, list(own.values()), number))
            for name, tensor in own.items():
                moved[name] += tensor.detach() - origin[name]
        share = self.scale / len(bench.tasks)
        restore(own, {name: start + share * moved[name] for name, start in origin.items()})
        return float(np.mean(losses))

    def _tune(self, bench: Bench, task: str, free: list[Tensor], number: int) -> float:
        """The epochs of a round on one task; the mean loss of their steps."""
        make: Any = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[self.optimiser]
        steps = make(free, lr=self.rate)
        objective, losses = supervised(bench), []
        for epoch in range((number - 1) * self.epochs, number * self.epochs):
            order = shuffled(self.seed, task, epoch, bench.count(task))
            for start in range(0, len(order), self.batch):
                loss = objective(task, order[start : start + self.batch])
                bench.forget()
                bench.backward(loss)
                steps.step()
                losses.append(float(loss.detach()))
        return float(np.mean(losses))

    @staticmethod
    def _judged(have: Have) -> list[float]:
        """The validation loss of what is on the bench, if there are rows; infinite for NaN."""
        found = [] if have.validation is None else [float(have.validation(have.live.state))]
        return [loss if np.isfinite(loss) else np.inf for loss in found]

    def _inner(self) -> Merger | None:
        if self.method is None:
            return None
        merger: Merger = resolve("merging", self.method)
        if isinstance(merger, Route) or Need.TASK_ID in merger.needs():
            raise MethodError(f"atm goes on from one network; {merger.card.name} makes more of it")
        return merger


def copied(bench: Bench) -> dict[str, Tensor]:
    """A copy of the weights on the bench."""
    return {name: tensor.detach().clone() for name, tensor in bench.weights.items()}


@torch.no_grad()
def restore(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write values into tensors of a module."""
    for name, tensor in own.items():
        tensor.copy_(values[name])
