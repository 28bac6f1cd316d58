"""How task gradients agree while a network trains: norms, cosines, conflict, curvature.

Of the Gramian G = JJᵀ [t, t] of the task gradients g_i on the shared parameters:

- ``cosine``, the mean over pairs of cos_ij = G_ij/(‖g_i‖‖g_j‖), and ``share``, the part below 0;
- ``condition``, λ_max/λ_min of G over the directions that the gradients span;
- ``similarity``, the mean of 2‖g_i‖‖g_j‖/(‖g_i‖² + ‖g_j‖²), 1 for equal lengths;
- ``curvature``, the median of ξ_ij = (1 − cos²_ij)‖g_i − g_j‖²/‖g_i + g_j‖².

Conflict, unequal lengths and high curvature together are what Yu et al. (Gradient Surgery for
Multi-Task Learning, NeurIPS 2020) call the tragic triad; ξ, their curvature bounding measure, is
the curvature along the step, in units of the gradient's Lipschitz constant, from which projecting
the conflict away lowers the loss more than a plain step that is long enough.

    >>> import torch
    >>> agreement(torch.tensor([[4.0, -1.0], [-1.0, 1.0]]))["cosine"]
    -0.5
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plait.balancing.base import Signals
from plait.data.seeding import generator
from plait.linalg import cosines
from plait.training.engine import gramian
from plait.training.observers import Event, Observer, number, windows
from plait.training.procedures.base import Problem

TASKS_MEASURED = 12
MEASURED = 2**26  # numbers in the gradients that the meter takes
PAIRED = 256  # with more tasks than that the cosines of single pairs are not kept
QUARTERS = 4  # windows that cosines are kept in

Floats = NDArray[np.float64]


class ConflictMeter(Observer):
    """Norms of task gradients and the cosines between them, told to ``logs``.

    Three events: ``conflict`` has the measures of this module at each look; ``gradients`` the mean
    ``norms`` by task over windows; ``cosines`` the mean cosine of each pair ``above`` the diagonal,
    row by row, over ``looks`` looks in a quarter of the training.

    Where the balancer has a Gramian or a Jacobian it is read every ``every`` steps. For others the
    gradients on ``rows`` rows of the batch (None: all) are taken every ``refresh`` steps (None:
    never), of at most ``most`` tasks drawn anew each time (None: all), and of fewer where the
    network is so large that they would fill the memory.
    """

    def __init__(
        self,
        *logs: Observer,
        every: int = 10,
        refresh: int | None = None,
        rows: int | None = 64,
        most: int | None = TASKS_MEASURED,
    ) -> None:
        self.logs = logs
        self.every = every
        self.refresh = refresh
        self.rows = rows
        self.most = most
        self._steps = 1
        self._norms: _Mean | None = None
        self._pairs: _Mean | None = None

    def start(self, step: int, steps: int) -> None:
        """Windows are parts of all ``steps``."""
        del step
        self._steps = steps
        self._norms = self._pairs = None

    def __call__(self, problem: Problem, signals: Signals) -> None:
        """Look at the step, if it is one of those."""
        step = problem.step + 1
        tasks, gram = self._seen(problem, signals, step)
        if gram is None:
            return
        gram = gram.detach().double().cpu()
        found = agreement(gram)
        if not found:
            return
        self._tell({"event": "conflict", "step": step, **found})
        self._add(problem.ground.layout.names, tasks, gram, step)

    def stop(self) -> None:
        """Tell what the last windows hold."""
        if self._norms is not None:
            self._tell_norms(self._norms)
        if self._pairs is not None:
            self._tell_pairs(self._pairs)
        self._norms = self._pairs = None

    def _seen(
        self, problem: Problem, signals: Signals, step: int
    ) -> tuple[tuple[str, ...], Tensor | None]:
        """The tasks looked at and their Gramian, None where it is not time."""
        if len(signals.tasks) < 2:
            return (), None
        if signals.gram is None and signals.jacobian is None:
            due = self.refresh is not None and step % self.refresh == 0
            return self._measured(problem) if due else ((), None)
        if step % self.every:
            return (), None
        if signals.jacobian is not None:
            return signals.tasks, gramian([signals.jacobian], len(signals.tasks))
        return signals.tasks, signals.gram

    def _measured(self, problem: Problem) -> tuple[tuple[str, ...], Tensor | None]:
        size = sum(parameter.numel() for parameter in problem.ground.shared)
        length, present = len(problem.batch), problem.batch.present
        most = min(self.most or len(present), MEASURED // max(size, 1))
        if not size or most < 2:
            return (), None
        batch = problem.batch
        if self.rows is not None and self.rows < length:
            batch = batch.rows(torch.arange(self.rows) * length // self.rows)
            present = batch.present
        if len(present) > most:
            random = generator(problem.ground.seed, "meter", problem.step)
            drawn = random.choice(len(present), most, replace=False)
            batch = batch.only({present[at] for at in drawn})
        part = Problem(problem.ground, batch, problem.step)
        if len(part.tasks) < 2:
            return (), None
        with part.kept_buffers():
            found = part.task_gradients()
        return part.tasks, gramian(found.blocks, len(part.tasks))

    def _add(self, names: tuple[str, ...], tasks: tuple[str, ...], gram: Tensor, step: int) -> None:
        if self._norms is None:
            self._norms = _Mean(names, (len(names),), step - 1)
        if self._pairs is None and len(names) <= PAIRED:
            self._pairs = _Mean(names, (len(names),) * 2, step - 1)
        at = np.array([self._norms.place[name] for name in tasks])
        self._norms.add(at, gram.diagonal().clamp(min=0).sqrt().numpy(), step)
        if self._norms.since(step) >= -(-self._steps // windows(len(names))):
            self._tell_norms(self._norms)
        if self._pairs is not None:
            self._pairs.add(np.ix_(at, at), cosines(gram).numpy(), step)
            if self._pairs.since(step) >= -(-self._steps // QUARTERS):
                self._tell_pairs(self._pairs)

    def _tell_norms(self, mean: _Mean) -> None:
        names, values, _ = mean.taken()
        if names:
            norms = dict(zip(names, map(number, values.tolist()), strict=True))
            self._tell({"event": "gradients", "step": mean.step, "norms": norms})

    def _tell_pairs(self, mean: _Mean) -> None:
        names, values, looks = mean.taken()
        if len(names) > 1:
            above = values[np.triu_indices(len(names), 1)].tolist()
            told = [round(value, 3) if math.isfinite(value) else None for value in above]
            event = {"event": "cosines", "step": mean.step, "looks": looks}
            self._tell({**event, "tasks": names, "above": told})

    def _tell(self, event: Event) -> None:
        for log in self.logs:
            log.event(event)


def agreement(gram: Tensor) -> dict[str, float | None]:
    """The measures of this module of a Gramian [t, t]; nothing where no two gradients are there."""
    squares = gram.diagonal().clamp(min=0)
    above = torch.triu(torch.ones_like(gram), 1).bool()
    cosine = cosines(gram)
    sums, products = squares[:, None] + squares[None, :], 2 * gram
    lengths = 2 * (squares[:, None] * squares[None, :]).sqrt() / sums
    curvature = (1 - cosine.square()) * (sums - products) / (sums + products)
    pairs = above & cosine.isfinite()
    if not pairs.any():
        return {}
    bounds = curvature[pairs]
    bounds = bounds[bounds.isfinite()]
    return {
        "cosine": number(float(cosine[pairs].mean())),
        "share": number(float((cosine[pairs] < 0).double().mean())),
        "condition": _condition(gram),
        "similarity": number(float(lengths[pairs].mean())),
        "curvature": number(float(bounds.median())) if len(bounds) else None,
    }


def _condition(gram: Tensor) -> float | None:
    values = torch.linalg.eigvalsh(gram)
    spanned = values[values > values[-1] * len(values) * torch.finfo(values.dtype).eps]
    return number(float(spanned[-1] / spanned[0])) if len(spanned) else None


class _Mean:
    """A running mean of what is known of tasks or pairs, by window."""

    def __init__(self, names: tuple[str, ...], shape: tuple[int, ...], step: int) -> None:
        self.names = names
        self.place = {name: at for at, name in enumerate(names)}
        self.step = self.begun = step
        self._sum, self._count = np.zeros(shape), np.zeros(shape)
        self._looks = 0

    def add(self, at: Any, values: Floats, step: int) -> None:
        """Take in the values of some places; what is not finite is not known."""
        known = np.isfinite(values)
        self._sum[at] += np.where(known, values, 0.0)
        self._count[at] += known
        self._looks += 1
        self.step = step

    def since(self, step: int) -> int:
        """The steps in the window."""
        return step - self.begun

    def taken(self) -> tuple[list[str], Floats, int]:
        """The tasks that were seen, their means and the number of looks; a new window begins."""
        seen = np.flatnonzero(self._count.reshape(len(self.names), -1).any(1))
        places = np.ix_(*[seen] * self._sum.ndim)
        means = np.full(self._sum[places].shape, np.nan)
        count = self._count[places]
        np.divide(self._sum[places], count, out=means, where=count > 0)
        looks, self._looks, self.begun = self._looks, 0, self.step
        self._sum[:], self._count[:] = 0.0, 0.0
        return [self.names[at] for at in seen], means, looks
