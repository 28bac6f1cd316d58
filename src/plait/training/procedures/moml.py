"""Task weights are learnt so that a step with them serves every task's held-out rows.

With logits a [T] and w = softmax(a): θ' = θ − η Σ_i w_i ∇L_i(θ), all parameters; K [T, T] with
K_ti = ⟨∇L_t^val(θ'), ∇L_i(θ)⟩, and q_t = −η (diag w − wwᵀ) K_t, the gradient on a of task t's
held-out loss after the step. The rows q_t/‖q_t‖ meet in their min-norm point, on which Adam moves
a; then comes one usual step on Σ_i w_i L_i.

    >>> Moml(lookahead=0.05).settings()
    {'lookahead': 0.05, 'rate': 0.001}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Signals
from plait.linalg import min_norm_point
from plait.method import Card, Law, Need, Paper, resolve
from plait.networks import Network
from plait.training.procedures.base import Problem, Procedure
from plait.training.procedures.learnt import Learnt
from plait.training.procedures.probing import (
    combined,
    cross_products,
    evenly,
    kept,
    preferences_of,
    step_back,
    weighing,
)


@final
@dataclass(frozen=True, kw_only=True)
class Moml(Procedure):
    """Multi-objective meta learning of task weights; a balancer sees the weighted losses.

    ``lookahead`` is η, ``rate`` Adam's on the logits. Costs the gradients of every task twice.
    """

    lookahead: float = 0.1
    rate: float = 1e-3

    needs_validation = True
    card = Card(
        family="procedure",
        name="moml",
        summary="Learns task weights that serve every task's held-out loss.",
        paper=Paper(
            title="Multi-Objective Meta Learning",
            authors="Ye, Feiyang and Lin, Baijiong and Yue, Zhixiong and Guo, Pengxin and "
            "Xiao, Qiao and Zhang, Yu",
            year=2021,
            venue="NeurIPS",
            url="https://arxiv.org/abs/2102.07121",
        ),
        needs=frozenset({Need.BACKWARD, Need.VALIDATION}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "The derivative through the one inner step is written out, with no second graph.",
            "Tasks without a held-out label in the step have no row in the outer problem.",
        ),
    )

    def __post_init__(self) -> None:
        if not (self.lookahead > 0 and self.rate > 0):
            raise ValueError(
                f"lookahead and rate must be positive, got {self.lookahead}, {self.rate}"
            )

    def memory(self, network: Network) -> Learnt:
        """The logits."""
        return Learnt(network.tasks.names)

    def gradients(self, problem: Problem, balancer: Balancer) -> Signals:
        """Fill the gradients of the weighted losses; ``preferences`` carry the weights."""
        memory = problem.ground.memory
        assert isinstance(memory, Learnt)
        with problem.kept_buffers():
            signals, slope = self._slope(problem, memory)
        logits = memory.propose(signals, slope, self.rate)
        usual: Procedure = resolve("procedure", "plain")
        return usual.gradients(weighing(problem, logits.softmax(0)), balancer)

    def advance(self, problem: Problem, signals: Signals) -> None:  # noqa: ARG002
        """Take the new logits over."""
        memory = problem.ground.memory
        assert isinstance(memory, Learnt)
        memory.settle()

    def _slope(self, problem: Problem, memory: Learnt) -> tuple[Signals, Tensor]:
        """The losses here, and the gradient on the logits [t]."""
        here, other = evenly(problem), evenly(problem.held_out(), problem.tasks)
        found = here.task_gradients()
        signals = problem.signals(found.losses)
        weights = memory.recall("value", signals).softmax(0)
        preferences = preferences_of(problem).to(weights)
        if not other.tasks:
            return signals, torch.zeros_like(weights)
        parameters = problem.ground.parameters
        with kept(parameters):
            step_back(parameters, combined(here, found, weights * preferences), self.lookahead)
            ahead = other.task_gradients()
        products = cross_products(other, ahead, here, found).to(weights) * preferences
        centred = products - (products @ weights)[:, None]
        return signals, common(-self.lookahead * centred * weights)


def common(rows: Tensor) -> Tensor:
    """The min-norm point [t] of rows [s, t], each at unit length; zero rows do not take part."""
    norms = rows.norm(dim=1)
    units = rows[norms > 0] / norms[norms > 0, None]
    if not len(units):
        return torch.zeros_like(rows[0])
    weights = torch.from_numpy(min_norm_point((units @ units.T).cpu().numpy()))
    found: Tensor = weights.to(units) @ units
    return found
