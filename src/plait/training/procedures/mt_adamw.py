"""One task a step, its gradient at a fixed length, and moments that forget how often it comes.

Task k is drawn with probability s_k, Σ s = 1. With g = ∇L_k over all parameters:
g ← ω_k g/‖g‖; m ← β₁m + (1 − β₁)g/s_k; n ← β₂n + (1 − β₂)g²/s_k; θ ← θ − lr·m̂/(√n̂ + ε), with
AdamW's decay and bias correction. The procedure draws and normalises; the moments are those of its
optimizer, :class:`plait.training.balanced_adamw.TaskBalancedAdamW`, which a training that is given
none makes. E[m] = Σ_k ω_k g_k/‖g_k‖ whatever s is. Heads of tasks that were not drawn rest.

    >>> MtAdamw(shares={"a": 3, "b": 1}).probabilities(("a", "b"))
    {'a': 0.75, 'b': 0.25}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch.optim import Optimizer

from plait.balancing.base import Balancer, Signals
from plait.data.seeding import key
from plait.method import Card, Law, Need, Paper, resolve
from plait.networks import Network
from plait.training.balanced_adamw import TaskBalancedAdamW
from plait.training.engine import NotFiniteError, accumulate
from plait.training.optim import Group, numbers_of
from plait.training.procedures.base import Problem, Procedure
from plait.training.procedures.probing import on


@final
@dataclass(frozen=True, kw_only=True)
class MtAdamw(Procedure):
    """Task-balanced gradient normalisation for one task a step.

    ``shares`` by task name are proportional to s_k (None: all alike), ``weights`` are ω_k (None:
    one). Of a batch without some tasks one of the others is drawn; where the feed itself gives one
    task a step, ``shares`` must say how often it gives each.
    """

    shares: Mapping[str, float] | None = None
    weights: Mapping[str, float] | None = None

    card = Card(
        family="procedure",
        name="mt_adamw",
        summary="One task a step, normalised, with an AdamW that counts tasks by their due.",
        paper=Paper(
            title="Uni-Perceiver v2: A Generalist Model for Large-Scale Vision and "
            "Vision-Language Tasks",
            authors="Li, Hao and Zhu, Jinguo and Jiang, Xiaohu and Zhu, Xizhou and Li, Hongsheng "
            "and Yuan, Chun and Wang, Xiaohua and Qiao, Yu and Wang, Xiaogang and Wang, Wenhai "
            "and Dai, Jifeng",
            year=2023,
            venue="CVPR",
            url="https://arxiv.org/abs/2211.09808",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "β weights the old moment, as in AdamW; in the paper it weights the new gradient.",
            "The optimizer and the normalisation are the paper's; its model is not here.",
            "A task's own parameters, which its model has none of, move when it is drawn.",
        ),
        exceptions={
            "every_rung_works": "one task a step: the heads of the others get nothing",
            "losses_are_those_of_the_start": "the losses told are those of the task drawn",
            "broken_loss_is_reported": "a task is looked at when it is drawn",
            "descends": "the losses told in two steps are those of different tasks",
        },
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"shares": "every", "weights": "keys"}

    def __post_init__(self) -> None:
        for name, given in (("shares", self.shares), ("weights", self.weights)):
            if given is not None and not all(value > 0 for value in given.values()):
                raise ValueError(f"{name} must be positive, got {dict(given)}")

    def probabilities(self, tasks: Sequence[str]) -> dict[str, float]:
        """The s_k by task; ``ValueError`` for a task without a share."""
        given = self.shares or dict.fromkeys(tasks, 1.0)
        lacking = [name for name in tasks if name not in given]
        if lacking:
            raise ValueError(f"mt_adamw: no share for {', '.join(lacking)}")
        whole = sum(given[name] for name in tasks)
        return {name: given[name] / whole for name in tasks}

    def optimizer(self, network: Network, groups: list[Group], rate: float) -> Optimizer:
        """The optimizer with the moments of the paper."""
        return TaskBalancedAdamW(groups, self.probabilities(network.tasks.names), lr=rate)

    def gradients(self, problem: Problem, balancer: Balancer) -> Signals:
        """Fill the normalised gradient of one task; the signals are of that task alone."""
        if balancer.second_look:
            raise ValueError(f"{balancer.card.name} compares tasks, and mt_adamw steps on one")
        parameters = problem.ground.parameters
        there = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        task = self.drawn(problem)
        usual: Procedure = resolve("procedure", "plain")
        signals = usual.gradients(on(problem.ground, problem, (task,)), balancer)
        found = numbers_of(parameters)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(found)).double())
        if not norm.isfinite():
            raise NotFiniteError((task,))
        wanted = 1.0 if self.weights is None else self.weights.get(task, 1.0)
        factor = wanted / float(norm) if norm > 0 else 0.0
        torch._foreach_mul_(found, factor)
        accumulate(parameters, there)
        weights = signals.weights
        return replace(signals, weights=None if weights is None else weights * factor)

    def drawn(self, problem: Problem) -> str:
        """The task of the step, one of those present: of exponential times the first to ring."""
        shares = self.probabilities(problem.ground.layout.names)
        seed, step = problem.ground.seed, problem.step
        rings = {}
        for name in problem.tasks:
            uniform = torch.rand(
                (), generator=torch.Generator().manual_seed(key(seed, "drawn", step, name))
            )
            rings[name] = float(-torch.log1p(-uniform.double())) / shares[name]
        return min(rings, key=rings.__getitem__)
