"""The best weights so far by validation loss, and when to stop waiting for better ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from plait.networks import Network
from plait.networks.base import task_slices

ALL = ""  # the name under which tasks that are judged together stand


class Best:
    """Judges the tasks together by their mean loss, or each by its own with its own weights.

    ``patience`` validations without a better one end a training (or a task's part in it).
    """

    def __init__(self, network: Network, patience: int | None, *, per_task: bool) -> None:
        self.network = network
        self.patience = patience
        self.per_task = per_task
        self.score: dict[str, float] = {}
        self.steps: dict[str, int] = {}
        self.waited: dict[str, int] = {}
        self.weights: dict[str, Tensor] = {}

    def offer(self, step: int, losses: Mapping[str, float]) -> None:
        """Hear of a validation; the weights are kept where they are the best so far."""
        better, over = [], self._over()
        for name, loss in self._judged(losses).items():
            if name in over:  # it has stopped: its weights stay, whatever is said of them
                continue
            if name not in self.score or loss < self.score[name]:
                better.append(name)
                self.score[name], self.steps[name], self.waited[name] = loss, step, 0
            else:
                self.waited[name] += 1
        if better:
            self._keep(better)

    @property
    def resting(self) -> frozenset[str]:
        """The tasks judged by themselves that have stopped."""
        return frozenset(self._over()) if self.per_task else frozenset()

    def over(self) -> bool:
        """Whether nothing is left to wait for."""
        return bool(self.score) and len(self._over()) == len(self.score)

    @property
    def step(self) -> int | None:
        """The step of the best weights (the latest of them where tasks are judged alone)."""
        return max(self.steps.values(), default=None)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best weights into the network, if there are any."""
        if self.weights:
            put(self.network, self.weights)

    def _over(self) -> Sequence[str]:
        if self.patience is None:
            return ()
        return [name for name, waited in self.waited.items() if waited >= self.patience]

    def _judged(self, losses: Mapping[str, float]) -> dict[str, float]:
        # An undefined loss (no labels) is left out; a network that has run away is never better.
        finite = {n: v if math.isfinite(v) else math.inf for n, v in losses.items()}
        if self.per_task:
            return finite
        return {ALL: sum(finite.values()) / len(finite)} if finite else {}

    @torch.no_grad()
    def _keep(self, better: Sequence[str]) -> None:
        state = moving(self.network)
        if not self.weights or not self.per_task:
            self.weights = {name: value.clone() for name, value in state.items()}
            return
        for name, parameter in self.network.named_parameters():
            names = task_slices(parameter) or ()
            if name not in state:
                continue
            rows = torch.tensor([i for i, task in enumerate(names) if task in better])
            rows = rows.long().to(parameter.device)
            self.weights[name].index_copy_(0, rows, parameter.index_select(0, rows))


def moving(network: Network) -> dict[str, Tensor]:
    """The part of a network's state that training can change: all but the frozen parameters."""
    every = network.named_parameters(remove_duplicate=False)
    frozen = {name for name, parameter in every if not parameter.requires_grad}
    return {name: value for name, value in network.state_dict().items() if name not in frozen}


def put(network: Network, state: Mapping[str, Tensor]) -> None:
    """Put :func:`moving` state back; ``ValueError`` where it is of a network of another shape."""
    wanted = set(moving(network))
    if wanted != set(state):
        differ = sorted(wanted.symmetric_difference(state))
        raise ValueError(
            f"the state is of another network; they differ in: {', '.join(differ[:5])}"
        )
    network.load_state_dict(state, strict=False)
