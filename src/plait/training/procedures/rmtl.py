"""Rows count by how much their prediction costs over the rest of their session.

A session's rows are the states of a game, the predicted probability p_k of task k is the action and
the reward r_k = y log p_k + (1 − y) log(1 − p_k). First the network trains as ever; then it rests
while a critic Q_k(z, p_k) ≤ 0 for each task learns r_k + γ(1 − done)·min(Q_slow, Q_k)(z', p'_k) by
squared error, rows weighted inversely to the frequency of their label; then the network trains
on with the loss of task k the mean over rows of (1 − λ Q_k(z, p_k))·BCE_k, Q_k held constant.

    >>> Rmtl(polish=0.3).settings()["discount"]
    0.9
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Signals
from plait.batch import Batch
from plait.method import Card, Law, Need, Paper, resolve
from plait.networks import Network
from plait.training.procedures.base import Problem, Procedure
from plait.training.procedures.critics import Critics, Moves
from plait.training.procedures.sessions import moves_of


@final
@dataclass(frozen=True, kw_only=True)
class Rmtl(Procedure):
    """Reinforcement learning's weights for the rows of binary tasks, around any balancer.

    The network trains for ``warm_up`` steps, critics with ``hidden`` units for ``critic_steps``;
    the rest of the steps is the fine-tuning. ``polish`` is λ, ``discount`` γ, ``rate`` Adam's on
    the critics. A task's ``group`` column holds sessions, in the order of the table's rows; without
    one a row is a session. Tasks of other kinds train as ever.
    """

    polish: float = 0.5
    discount: float = 0.9
    warm_up: int = 1000
    critic_steps: int = 1000
    rate: float = 1e-3
    hidden: int = 64

    card = Card(
        family="procedure",
        name="rmtl",
        summary="Weighs rows by critics that look ahead over a session.",
        paper=Paper(
            title="Multi-Task Recommendations with Reinforcement Learning",
            authors="Liu, Ziru and Tian, Jiejie and Cai, Qingpeng and Zhao, Xiangyu and Gao, "
            "Jingtong and Liu, Shuchang and Chen, Dayou and He, Tonghao and Zheng, Dong and Jiang, "
            "Peng and Gai, Kun",
            year=2023,
            venue="WWW",
            url="https://arxiv.org/abs/2302.03328",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "A state is the network's features as they are; the authors' critics embed rows anew.",
            "The next state is the session's next row in the batch; the authors replay a memory.",
            "Predictor, critics and fine-tuning are phases of one training.",
        ),
    )

    def __post_init__(self) -> None:
        if self.polish < 0 or not 0 <= self.discount < 1 or not self.rate > 0:
            raise ValueError("polish must not be negative, discount in [0, 1), rate positive")
        if min(self.warm_up, self.critic_steps) < 0 or self.hidden < 1:
            raise ValueError("warm_up and critic_steps must not be negative, hidden at least 1")

    def memory(self, network: Network) -> Critics:
        """The critics of the binary tasks."""
        return Critics([t.name for t in network.tasks if t.kind == "binary"], self.hidden)

    def gradients(self, problem: Problem, balancer: Balancer) -> Signals:
        """Fill the gradients, or in the second phase none; the losses told are the plain ones."""
        usual: Procedure = resolve("procedure", "plain")
        critics, seed = problem.ground.memory, problem.ground.seed
        assert isinstance(critics, Critics)
        if problem.step < self.warm_up:
            return usual.gradients(problem, balancer)
        moves = moves_of(problem, set(critics.tasks))
        signals = problem.signals(problem.measure())
        if problem.step < self.warm_up + self.critic_steps:
            if moves:
                critics.propose(_of(signals, moves), seed, moves, self.discount, self.rate)
            return signals
        if not moves or not self.polish:
            return usual.gradients(problem, balancer)
        values = critics.values(_of(signals, moves), seed, moves)
        factors = {n: 1 - self.polish * moves[n].own(value) for n, value in values.items()}
        told = usual.gradients(weighed(problem, factors), balancer)
        return replace(told, losses=signals.losses, preferences=signals.preferences)

    def advance(self, problem: Problem, signals: Signals) -> None:  # noqa: ARG002
        """Take the critics' step over."""
        critics = problem.ground.memory
        assert isinstance(critics, Critics)
        critics.settle()


def _of(signals: Signals, moves: dict[str, Moves]) -> Signals:
    """The signals of the tasks that move."""
    rows = torch.tensor([signals.tasks.index(name) for name in moves])
    return replace(
        signals, tasks=tuple(moves), losses=signals.losses[rows.to(signals.losses.device)]
    )


def weighed(problem: Problem, factors: dict[str, Tensor]) -> Problem:
    """The work with each task's records times factors [n]; losses stay means over the labels."""
    batch, layout = problem.batch.only(set(problem.tasks)), problem.ground.layout
    sums = layout.preferences.new_zeros(2, len(layout.names))  # of new weights, and of old
    labels = {}
    for group, old in batch.labels.items():
        weight = torch.ones_like(old.rows[..., 0] if old.rows.ndim > 1 else old.rows).to(sums)
        weight = weight if old.weight is None else old.weight.to(sums)
        for place, name in enumerate(batch.tasks.groups[group].tasks):
            if name in factors:
                mine = (old.task == place).nonzero()[:, 0]
                new = weight[mine] * factors[name].detach().to(weight)
                sums[:, layout.names.index(name)] += torch.stack([new.sum(), weight[mine].sum()])
                weight = weight.index_copy(0, mine, new)
        labels[group] = replace(old, weight=weight)
    changed: Batch = replace(batch, labels=labels)
    new_sum, old_sum = problem.ground.total(sums)
    means = torch.where(old_sum > 0, new_sum / old_sum, 1.0)
    ground = problem.ground.preferring(layout.preferences * means)
    return Problem(ground, changed, problem.step, part=problem.part)
