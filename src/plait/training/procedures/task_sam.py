"""Each task looks for a flat minimum of its own: gradients are taken where its loss rises most.

With g_i = ∇L_i on the shared parameters θ [P], ε_i = ρ v_i/‖v_i‖, v_i = g_i; adaptive:
v_i = θ²∘g_i and the norm is ‖|θ|∘g_i‖. The task's own parameters climb in the same way, by a norm
of their own. With ĝ_i the gradient there and h_i = ĝ_i − g_i, the shared update is
A(g_1…g_t) + A(h_1…h_t) for any balancer A; what is the task's own steps with its gradient there.

    >>> TaskSam(rho=0.1).settings()
    {'rho': 0.1, 'adaptive': True}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, Signals
from plait.method import Card, Law, Need, Paper
from plait.training.engine import Blocks, accumulate, added, combine
from plait.training.procedures.base import Problem, Procedure, TaskGradients
from plait.training.procedures.probing import kept


@final
@dataclass(frozen=True, kw_only=True)
class TaskSam(Procedure):
    """Sharpness-aware steps for each task, around any balancer.

    Costs one forward and two backward passes for each task. ``rho`` is the length of the climb.
    Dropout masks are those of the first look; running statistics are moved by it alone.
    """

    rho: float = 0.05
    adaptive: bool = True

    card = Card(
        family="procedure",
        name="task_sam",
        summary="Seeks minima that are flat for each task, around any balancer.",
        paper=Paper(
            title="Improving Multi-task Learning via Seeking Task-based Flat Regions",
            authors="Phan, Hoang and Tran, Lam and Tran, Ngoc N. and Ho, Nhat and Phung, Dinh and "
            "Le, Trung",
            year=2022,
            venue="arXiv",
            url="https://arxiv.org/abs/2211.13723",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=("ρ is the class default of the authors' code; their scripts use 2.",),
    )

    def __post_init__(self) -> None:
        if self.rho < 0:
            raise ValueError(f"rho must not be negative, got {self.rho}")

    def gradients(self, problem: Problem, balancer: Balancer) -> Signals:
        """Fill the gradients; the signals are those of the first look."""
        here = problem.task_gradients()
        signals, update = combine(balancer, problem.signals(here.losses), here.blocks)
        there = self._climbed(problem, here)
        rise: Blocks = [
            None if old is None or new is None else new - old
            for old, new in zip(here.blocks, there.blocks, strict=True)
        ]
        _, correction = combine(balancer, signals, rise)
        accumulate(problem.ground.shared, update)
        accumulate(problem.ground.shared, correction)
        problem.fill(balancer, signals, there)
        return signals

    def _climbed(self, problem: Problem, here: TaskGradients) -> TaskGradients:
        """The gradients of every task at the top of its own climb; parameters come back exactly."""
        shared, specific = problem.ground.shared, problem.ground.specific
        blocks: Blocks = [None if b is None else torch.zeros_like(b) for b in here.blocks]
        heads: list[Tensor | None] = [None] * len(specific)
        lengths = self._shared_lengths(here.blocks, shared)
        preferences = problem.told(here.losses).preferences
        with problem.kept_buffers(), kept(problem.ground.parameters) as start:
            self._climb_heads(problem, here.heads)
            for i in range(len(problem.tasks)):
                for p, old, block in zip(shared, start, here.blocks, strict=False):
                    if block is not None:
                        p.data.copy_(old + lengths[i] * self._stretched(block[i], old))
                found = problem.alone(i)
                for block, gradient in zip(blocks, found, strict=False):
                    if block is not None and gradient is not None:
                        block[i] = gradient.to_dense() * preferences[i]
                heads = added(heads, found[len(shared) :])
        return TaskGradients(here.losses, blocks, heads, here.penalties)

    def _stretched(self, gradient: Tensor, parameter: Tensor) -> Tensor:
        """v: the gradient, or θ²∘g."""
        return gradient * parameter.square() if self.adaptive else gradient

    def _squares(self, gradients: Tensor, parameter: Tensor) -> Tensor:
        """The part of ‖v‖² (adaptive: ‖|θ|∘g‖²) of stacked gradients, a row each."""
        stretched = gradients * parameter.detach().abs() if self.adaptive else gradients
        return stretched.flatten(1).square().sum(1)

    def _shared_lengths(self, blocks: Blocks, shared: list[nn.Parameter]) -> Tensor:
        """ρ/‖v_i‖, [t]; 0 where a task has no gradient."""
        pairs = zip(blocks, shared, strict=True)
        squares = [self._squares(block, p) for block, p in pairs if block is not None]
        return self._lengths(torch.stack(squares).sum(0))

    def _lengths(self, squares: Tensor) -> Tensor:
        return torch.where(squares > 0, self.rho * squares.rsqrt(), 0.0)

    def _climb_heads(self, problem: Problem, heads: list[Tensor | None]) -> None:
        """Move every task's own parameters at once: none of them matters to another task."""
        ground = problem.ground
        found = [(p, g) for p, g in zip(ground.specific, heads, strict=True) if g is not None]
        squares = problem.ground.shared[0].new_zeros(len(ground.layout.names))
        for parameter, gradient in found:
            places = ground.places(parameter)
            rows = len(places)
            part = self._squares(gradient.reshape(rows, -1), parameter.detach().reshape(rows, -1))
            squares.index_add_(0, places, part)
        lengths = self._lengths(squares)
        for parameter, gradient in found:
            length = problem.column(lengths, parameter)
            parameter.data.add_(length * self._stretched(gradient, parameter.detach()))
