"""What methods on the Gramian share: clean numbers in, a mixture kept by task name, a random order.

A method that is a function of G = J Jᵀ [t, t] alone writes ``weigh``: it sees a symmetric float64
array of the tasks whose gradient is not zero. A task with a zero gradient has the weight 0: it
cannot be helped and must not hold up the others.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.linalg import Floats


class OnGramian(Balancer):
    """Weights from the inner products of the task gradients."""

    rung = Rung.GRAM
    weights_heads = False
    blind = True

    def weigh(self, gram: Floats) -> Floats:
        """The weights [t] for a Gramian [t, t] of tasks of which none has a zero gradient."""
        raise NotImplementedError

    def forward(self, s: Signals) -> Tensor:
        """The weights [t] of the present tasks."""
        assert s.gram is not None
        return torch.from_numpy(self.answer(clean(s.gram))).to(s.gram.device)

    def answer(self, gram: Floats) -> Floats:
        """The weights [t]; zero for tasks without a gradient."""
        alive = gram.diagonal() > 0
        weights = np.zeros(len(gram))
        if alive.any():
            weights[alive] = self.weigh(gram if alive.all() else gram[np.ix_(alive, alive)])
        return weights


class Mixture(Balancer):
    """Weights on the simplex that are carried from step to step, by task name.

    Stored up to a factor: the tasks present share what they hold, so that those who are absent
    keep their part and the others behave as if they were alone.
    """

    rung = Rung.GRAM
    weights_heads = False
    blind = True
    memory: ClassVar = {"mix": 1.0}
    mix: Tensor

    def held(self, s: Signals) -> Floats:
        """The mixture of the tasks present [t], which sums to one."""
        parts = self.recall("mix", s).double().cpu().numpy() + 1e-12
        return np.asarray(parts / parts.sum())

    def moved(self, s: Signals) -> Floats:
        """The mixture [t] after this step."""
        raise NotImplementedError

    @torch.no_grad()
    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        """Carry the mixture on."""
        super().advance(s, after)
        whole = self.recall("mix", s).sum()
        self.remember("mix", s, torch.from_numpy(self.moved(s)).to(whole) * whole)


def clean(gram: Tensor) -> Floats:
    """The Gramian as a symmetric float64 array; a square that rounding made negative is zero."""
    found = gram.double().cpu().numpy()
    found = (found + found.T) / 2
    place = np.arange(len(found))
    found[place, place] = np.maximum(found.diagonal(), 0.0)
    return np.asarray(found)


def unit(gram: Floats) -> tuple[Floats, Floats]:
    """The cosines [t, t] and the lengths [t]; no length may be zero."""
    lengths = np.sqrt(gram.diagonal())
    return gram / lengths[:, None] / lengths, lengths


def others_in_random_order(s: Signals) -> NDArray[np.intp]:
    """The other tasks in random order, a row for each task: [t, t − 1]."""
    noise = s.noise(pairs=True)
    np.fill_diagonal(noise, 2.0)  # a task comes last in its own row, which is cut off
    return np.asarray(noise.argsort(1)[:, :-1])
