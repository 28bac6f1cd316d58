"""Critics of predictions: what a task's prediction in a state is worth over the rest of a session.

One small network for each task: Q(z, p) = −relu(w₂·relu(W₁[z, p] + b₁) + b₂) ≤ 0, for the features
z [N, d] of rows and the predicted probabilities p [N].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plait.balancing.base import Signals
from plait.balancing.state import TaskState
from plait.data.seeding import key

FLOOR = 1e-4  # a probability is no smaller, so that a reward is finite
NOISE = 0.003  # the most that an action is moved
SOFT, OFTEN = 0.2, 2  # how far, and after how many steps, the slow critics follow


@dataclass(frozen=True)
class Moves:
    """Records of one task as moves of a game, in the order of their sessions.

    ``state`` [n, d], ``action`` [n] the predicted probability, ``label`` [n], ``next`` [n] the
    place of the session's next move, -1 at its end. ``mine`` are the places of the records that
    this process has, in the order of its batch.
    """

    state: Tensor
    action: Tensor
    label: Tensor
    next: Tensor
    mine: Tensor | None = None

    def own(self, values: Tensor) -> Tensor:
        """Of values [n] those of this process's records, in its order."""
        return values if self.mine is None else values[self.mine]

    @property
    def reward(self) -> Tensor:
        """The log-likelihood y log p + (1 − y) log(1 − p), [n]."""
        p = self.action.clamp(FLOOR, 1 - FLOOR)
        return self.label * p.log() + (1 - self.label) * (1 - p).log()

    @property
    def weight(self) -> Tensor:
        """Inverse to how frequent the label is, with mean one, [n]."""
        share = self.label.mean()
        known = torch.where(self.label > 0, share, 1 - share)
        return 1 / known / (1 / known).mean()


class Critics(TaskState):
    """A critic for each task, its slow copy, and Adam's moments; saved by task name.

    What is stored is the way from the start, which the seed and the task's name decide.
    """

    memory: ClassVar[Mapping[str, float]] = {"steps": 0.0}
    vectors: ClassVar[Mapping[str, float]] = dict.fromkeys(("live", "slow", "mean", "square"), 0.0)

    def __init__(self, tasks: Iterable[str], hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self._next: dict[str, Tensor] = {}
        self._told: Signals | None = None
        self.bind(tasks)

    def values(self, s: Signals, seed: int, moves: Mapping[str, Moves]) -> dict[str, Tensor]:
        """Q(z, p) of every task's moves, [n] each."""
        live, starts = self._stored("live", s, moves), self._starts(seed, moves)
        return {
            name: _value(starts[name] + live[name], self.hidden, found.state, found.action)
            for name, found in moves.items()
        }

    def propose(
        self, s: Signals, seed: int, moves: Mapping[str, Moves], discount: float, rate: float
    ) -> None:
        """Work out a step towards r + γ(1 − done)·min(Q_slow, Q)(z', p'); it moves nothing."""
        starts = self._starts(seed, moves)
        found = {name: self._stored(name, s, moves) for name in self.vectors}
        steps = self.recall("steps", s)
        for name, move in moves.items():
            place = s.tasks.index(name)
            draw = torch.Generator().manual_seed(key(seed, "critic", s.step, name))
            noise = torch.randn(len(move.action), generator=draw).to(move.action) * NOISE
            live = (starts[name] + found["live"][name]).requires_grad_()
            goal = self._goal(move, live.detach(), starts[name] + found["slow"][name], discount)
            action = move.action + noise.clamp(-NOISE, NOISE)
            with torch.enable_grad():
                error = _value(live, self.hidden, move.state, action) - goal
                (slope,) = torch.autograd.grad((move.weight * error.square()).mean(), live)
            steps[place] += 1
            count = float(steps[place])
            found["mean"][name].lerp_(slope, 0.1)
            found["square"][name].lerp_(slope.square(), 0.001)
            scale = (found["square"][name] / (1 - 0.999**count)).sqrt() + 1e-8
            found["live"][name] -= rate * found["mean"][name] / (1 - 0.9**count) / scale
            if count % OFTEN == 0:
                found["slow"][name].lerp_(found["live"][name], SOFT)
        whole = {name: self.recall(name, s, *self._shape(moves)) for name in self.vectors}
        for name, rows in found.items():
            for task, row in rows.items():
                whole[name][s.tasks.index(task)] = row
        self._next, self._told = {**whole, "steps": steps}, s

    def settle(self) -> None:
        """Take over what was proposed last, if anything was."""
        for name, value in self._next.items():
            assert self._told is not None
            self.remember(name, self._told, value)
        self._next = {}

    def _goal(self, move: Moves, live: Tensor, slow: Tensor, discount: float) -> Tensor:
        after = move.next.clamp(min=0)
        state, action = move.state[after], move.action[after]
        least = torch.minimum(
            _value(slow, self.hidden, state, action), _value(live, self.hidden, state, action)
        )
        return move.reward + discount * torch.where(move.next >= 0, least, 0.0)

    def _shape(self, moves: Mapping[str, Moves]) -> tuple[int]:
        width = next(iter(moves.values())).state.shape[1] + 1
        return ((width + 2) * self.hidden + 1,)

    def _stored(self, name: str, s: Signals, moves: Mapping[str, Moves]) -> dict[str, Tensor]:
        rows = self.recall(name, s, *self._shape(moves))
        like = next(iter(moves.values())).state
        return {task: rows[s.tasks.index(task)].to(like) for task in moves}

    def _starts(self, seed: int, moves: Mapping[str, Moves]) -> dict[str, Tensor]:
        """Where each critic began: small, and below zero, where a relu lets gradients through."""
        (size,) = self._shape(moves)
        found = {}
        for name, move in moves.items():
            draw = torch.Generator().manual_seed(key(seed, "critic", name))
            flat = (torch.rand(size, generator=draw) * 2 - 1) * (move.state.shape[1] + 1) ** -0.5
            flat[-1] = 0.5
            found[name] = flat.to(move.state)
        return found


def _value(flat: Tensor, hidden: int, state: Tensor, action: Tensor) -> Tensor:
    """Q [n] of one critic, its weights in one vector."""
    width = state.shape[1] + 1
    first, bias, second, last = torch.split(flat, [width * hidden, hidden, hidden, 1])
    inner = torch.cat([state, action[:, None]], 1) @ first.view(width, hidden) + bias
    found: Tensor = -(inner.relu() @ second + last).relu()
    return found
