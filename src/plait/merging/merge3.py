"""MERGE³: search a merge by an estimate of its accuracy from few validation rows of each task.

    f = c·s + (1 − c)·(w·s + (1 − w)·mean_{j unseen} σ(a_j Σ_m λ_m θ_m − b_j)),   w = n/N

for every task, s being the share of ``items`` = n validation rows out of N that the merge has
right. What is known of the N rows comes from the models' own answers to all of them: slope a_j and
offset b_j of each row and ability θ_m of each model (item response theory); λ is what the merge's n
answers speak for. ``method`` is any merger that searches on validation; it is shown −mean f over
tasks in place of the validation loss, at n rows a task for every try in place of N.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from plait.merging.base import Have, Merged, Merger
from plait.merging.bench import Bench
from plait.merging.items import Items, calibrated, estimate
from plait.merging.pool import Array, Pool
from plait.method import Card, Method, MethodError, Need, Paper, resolve
from plait.weights.sinks import Sink
from plait.weights.sources import State

SIZE = 256  # rows that are run together


@dataclass(frozen=True, kw_only=True)
class Merge3(Merger):
    """Let ``method`` search by an accuracy that is estimated from ``items`` rows of each task.

    ``trust`` is c, the weight of the bare share among the rows that were run.
    """

    card: ClassVar[Card] = Card(
        family="merging",
        name="merge3",
        summary="A search on validation whose tries are judged from few rows by item response.",
        paper=Paper(
            title="MERGE³: Efficient Evolutionary Merging on Consumer-grade GPUs",
            authors=(
                "Tommaso Mencattini and Adrian Robert Minut and Donato Crisostomi and "
                "Andrea Santilli and Emanuele Rodolà"
            ),
            year=2025,
            venue="International Conference on Machine Learning",
            url="https://arxiv.org/abs/2502.10436",
        ),
        needs=frozenset({Need.BASE, Need.VALIDATION, Need.LABELLED, Need.HEADS}),
        deviations=(
            "rows are calibrated here on the models' and the base's answers, not in a public bank",
            "abilities have one dimension, and one for each task",
            "weights of abilities have a prior around 1/M; without one they may become infinite",
            "the search is by CMA-ES as evolve has it; the authors take genetic algorithms",
        ),
    )
    parts: ClassVar[Mapping[str, str]] = {"method": "merging"}
    losses: ClassVar[frozenset[str]] = frozenset({"bce", "cross_entropy"})
    method: Method | str | Mapping[str, Any] = "evolve"
    items: int = 20
    trust: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.items < 1:
            raise ValueError(f"items must be at least 1, got {self.items}")
        if not 0 <= self.trust <= 1:
            raise ValueError(f"trust must lie in [0, 1], got {self.trust:g}")

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """The mean of the task vectors, without a search."""
        return {"method": {"evolve": {"method": "task_arithmetic", "trials": 1}}}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """A few tries of a recipe, and of a coefficient."""
        ties = {"ties": {"grid": (0.3, 1.0)}}
        return (
            {"items": 4, "method": {"evolve": {"trials": 3}}},
            {"items": 4, "method": ties},
        )

    def needs(self) -> frozenset[Need]:
        """Those of the method too; the base only where that needs it."""
        return (self.card.needs - {Need.BASE}) | self._inner().needs()

    def admit(self, losses: Mapping[str, str]) -> None:
        """Right and wrong answers are known of classes alone."""
        super().admit(losses)
        self._inner().admit(losses)

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Calibrate the rows, and search."""
        held, validation = have.held, have.validation
        if held is None or validation is None:
            raise ValueError(
                "merge3 runs the network on validation rows; give them as Have(held=…)"
            )
        held.check(pool)
        known = {task: self._calibrated(held, pool, task) for task in pool.names}
        chosen = {task: held.chosen(task, self.items, self.seed) for task in pool.names}
        judge = self._judge(held, pool, known, chosen)
        merged = self._inner().run(pool, replace(have, validation=judge), sink, workers)
        loss = float(validation(merged.tensors))
        told = {
            "estimate": -judge(merged.tensors),
            "validation": loss if np.isfinite(loss) else None,
            "items": {task: [len(chosen[task]), held.count(task)] for task in pool.names},
        }
        return replace(merged, evidence={**merged.evidence, **told})

    def _calibrated(self, held: Bench, pool: Pool, task: str) -> Items:
        """The rows of a task, from all models' answers and the base's; abilities of the models."""
        everything = np.arange(held.count(task))
        asked: list[str | None] = [*pool.names, *([] if pool.base is None else [None])]
        answers = []
        for model in asked:
            held.load(pool, model)
            answers.append(right(held, task, everything))
        found = calibrated(np.stack(answers))
        return replace(found, abilities=found.abilities[: len(pool)])

    def _judge(
        self, held: Bench, pool: Pool, known: Mapping[str, Items], chosen: Mapping[str, Array]
    ) -> Callable[[State], float]:
        """What takes a state and returns minus its estimated accuracy."""
        names = [site.name for site in pool.sites if site.floating]

        def judge(state: State) -> float:
            held.fill({name: state[name] for name in names})
            every = []
            for task, items in known.items():
                answers = right(held, task, chosen[task])
                every.append(estimate(items, chosen[task], answers, items.abilities, self.trust))
            return -float(np.mean(every))

        return judge

    def _inner(self) -> Merger:
        merger: Merger = resolve("merging", self.method)
        if Need.TASK_ID in merger.needs():
            raise MethodError(f"merge3 judges one network; {merger.card.name} makes more of it")
        return merger


@torch.no_grad()
def right(bench: Bench, task: str, rows: Array) -> Array:
    """1 for each row whose class the network on the bench has right, else 0. [N]

    Raises ``ValueError`` for a task with more than one label a row.
    """
    found = []
    for start in range(0, len(rows), SIZE):
        part = rows[start : start + SIZE]
        seen = bench.run(task, part)
        losses = bench.loss(task, part, seen)
        if len(losses) != len(part):
            raise ValueError(f"merge3 works on one label a row; task {task!r} has more")
        found.append(losses <= lowest(bench.losses[task], seen.raw))
    return torch.cat(found).double().numpy()


def lowest(loss: str, raw: Tensor) -> Tensor:
    """The loss [N] that a row has if its label is the class that the network holds likeliest."""
    flat = raw.reshape(len(raw), -1)
    if loss == "bce":
        return torch.nn.functional.softplus(-flat[:, 0].abs()) * (1 + 1e-5) + 1e-7
    return -flat.log_softmax(1).amax(1) * (1 + 1e-5) + 1e-7
