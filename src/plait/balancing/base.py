"""What every balancer is: per-task losses and gradients in, weights for one update out.

``forward`` is a pure function of the signals and of the balancer's state; ``advance`` moves the
state once the step has been taken. State is one number per task, kept in buffers and saved by task
name, so it loads in any order of tasks; a task that is absent from a step keeps its state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from plait.data.seeding import key
from plait.method import Method


class Rung(IntEnum):
    """How much a balancer must see; each rung costs more than the one below."""

    LOSSES = 0
    GRAM = 1
    JACOBIAN = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Signals:
    """What one step tells a balancer, for the tasks present in it and no others.

    ``losses`` [t] without graph, ``counts`` [t] labels (the sum of their weights) behind each,
    ``preferences`` [t] of the user, ``gaussian`` [t] marks squared errors. ``gram`` [t, t] holds
    the inner products of the task gradients on the shared parameters, ``jacobian`` [t, P] the
    gradients. Preferences are already in both, and the engine multiplies them into the weights: a
    method need not look at them. ``weights`` [t] is what multiplied each loss in the end, None
    where the update is no combination of task gradients. ``dropped`` tasks were left out because
    their loss or gradient was not finite.
    """

    tasks: tuple[str, ...]
    losses: Tensor
    counts: Tensor
    preferences: Tensor
    gaussian: Tensor
    step: int = 0
    seed: int = 0
    gram: Tensor | None = None
    jacobian: Tensor | None = None
    weights: Tensor | None = None
    dropped: tuple[str, ...] = ()

    @classmethod
    def of(cls, losses: Mapping[str, float], **given: Any) -> Signals:
        """Signals of plain numbers, for trying a balancer out."""
        values = torch.tensor(list(losses.values()), dtype=torch.float64)
        plain = {
            "counts": torch.ones_like(values),
            "preferences": torch.ones_like(values),
            "gaussian": torch.zeros(len(values), dtype=torch.bool),
        }
        return cls(tasks=tuple(losses), losses=values, **{**plain, **given})

    def noise(self, *, pairs: bool = False) -> NDArray[np.float64]:
        """Uniform numbers per task [t], or per ordered pair of tasks [t, t].

        Each depends on the seed, the step and the names only, never on the order of tasks.
        """
        names = np.array([_name_key(name) for name in self.tasks], dtype=np.uint64)
        mixed = _scramble(names ^ np.uint64(key("balancing", self.seed, self.step)))
        if pairs:
            mixed = _scramble(mixed[:, None] ^ names[None, :])
        return np.asarray((mixed >> np.uint64(11)) * 2.0**-53)


@lru_cache(maxsize=65_536)
def _name_key(name: str) -> int:
    return key("task", name)


def _scramble(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of the splitmix64 generator (Steele, Lea and Flood, 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Balancer(nn.Module, Method):
    """Turns signals into weights.

    ``forward`` returns the weights [t], or on the Jacobian rung the shared update itself [P].
    ``weights_heads`` says whether what is not shared (heads, private modules) receives weighted or
    raw gradients. ``blind`` balancers need no losses of the step to weigh it. ``second_look`` asks
    for the losses of the same batch again after the step.

    ``memory`` names the state, one number per task, with its start. ``learns`` names the one that
    Adam trains on ``objective``, with the settings ``rate`` and ``decay`` (added to the gradient).
    """

    rung: ClassVar[Rung] = Rung.LOSSES
    weights_heads: ClassVar[bool] = True
    blind: ClassVar[bool] = False
    second_look: ClassVar[bool] = False
    memory: ClassVar[Mapping[str, float]] = {}
    learns: ClassVar[str] = ""
    rate: float = 0.025
    decay: float = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.tasks: tuple[str, ...] = ()
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        for name in self._fills():
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))

    def forward(self, s: Signals) -> Tensor:
        """The weights [t] of the present tasks; on the Jacobian rung the shared update [P]."""
        raise NotImplementedError

    def objective(self, learnt: Tensor, s: Signals, after: Tensor | None) -> Tensor | None:
        """What the learnt state [t] of the present tasks is trained to minimise; None: not now."""
        raise NotImplementedError

    def bind(self, tasks: Iterable[str]) -> None:
        """Hold state for these tasks, in this order; tasks already known keep theirs."""
        tasks = tuple(tasks)
        if tasks == self.tasks:
            return
        known = {name: i for i, name in enumerate(self.tasks)}
        kept = [i for i, name in enumerate(tasks) if name in known]
        source = [known[tasks[i]] for i in kept]
        for name, fill in self._fills().items():
            old = getattr(self, name)
            new = old.new_full((len(tasks),), fill)
            new[kept] = old[source]
            setattr(self, name, new)
        self.tasks = tasks

    def rows(self, s: Signals) -> Tensor | slice:
        """Where the present tasks stand in the state."""
        if s.tasks == self.tasks:
            return slice(None)
        place = {name: i for i, name in enumerate(self.tasks)}
        return torch.tensor([place[name] for name in s.tasks], device=s.losses.device)

    @torch.no_grad()
    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        """Move the state of the present tasks, the step having been taken.

        ``after`` [t] are the losses of the same batch again, for those that want a second look.
        """
        self.updates += 1
        if not self.learns:
            return
        rows = self.rows(s)
        learnt = getattr(self, self.learns)[rows].requires_grad_()
        with torch.enable_grad():
            objective = self.objective(learnt, s, after)
        if objective is None:
            return
        (gradient,) = torch.autograd.grad(objective, learnt)
        self._adam(rows, learnt.detach(), gradient)

    def _adam(self, rows: Tensor | slice, value: Tensor, gradient: Tensor) -> None:
        gradient = gradient + self.decay * value
        steps = self.adam_steps[rows] + 1
        mean = self.adam_mean[rows].lerp(gradient, 0.1)
        square = self.adam_square[rows].lerp(gradient.square(), 0.001)
        scale = (square / (1 - 0.999**steps)).sqrt() + 1e-8
        getattr(self, self.learns)[rows] = value - self.rate * mean / (1 - 0.9**steps) / scale
        self.adam_steps[rows], self.adam_mean[rows], self.adam_square[rows] = steps, mean, square

    updates: Tensor  # how many steps it has weighed
    adam_steps: Tensor
    adam_mean: Tensor
    adam_square: Tensor

    def _fills(self) -> dict[str, float]:
        own = ("adam_steps", "adam_mean", "adam_square") if self.learns else ()
        return {**self.memory, **dict.fromkeys(own, 0.0)}

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self._fills():
            whole = destination.pop(prefix + name)
            for task, value in zip(self.tasks, whole, strict=True):
                destination[f"{prefix}{name}/{task}"] = value.clone()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **more: Any
    ) -> None:
        for name in self._fills():
            start = f"{prefix}{name}/"
            found = [entry.removeprefix(start) for entry in state_dict if entry.startswith(start)]
            if not self.tasks:
                self.bind(found)
            lacking = sorted(set(self.tasks).symmetric_difference(found))
            if lacking:
                raise ValueError(
                    f"the saved state of {self.card.key} and its tasks differ in: "
                    f"{', '.join(lacking)}"
                )
            state_dict[prefix + name] = torch.stack(
                [state_dict.pop(start + task) for task in self.tasks]
            )
        super()._load_from_state_dict(state_dict, prefix, *rest, **more)
