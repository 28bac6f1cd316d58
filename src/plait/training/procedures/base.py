"""What a training step can see and do: a problem, and the procedure that fills its gradients."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, Signals
from plait.batch import Batch
from plait.networks import Network, Outputs
from plait.networks.base import task_slices
from plait.networks.network import evaluating
from plait.training.engine import (
    Blocks,
    Gathered,
    NotFiniteError,
    accumulate,
    added,
    gather,
    roots_of,
    signals_of,
)
from plait.training.measuring import Losses, Units, records_of, total
from plait.training.procedures.gradients import TaskGradients
from plait.training.procedures.ground import Ground
from plait.training.procedures.procedure import Procedure, Validate

__all__ = ["Ground", "Problem", "Procedure", "TaskGradients", "Validate"]


class Problem:
    """One step's work: a batch, cut into micro-batches, that can be looked at more than once.

    Every look at a piece uses the same randomness, so a dropout mask is the same each time.
    """

    def __init__(
        self,
        ground: Ground,
        batch: Batch,
        step: int,
        without: Collection[str] = (),
        part: tuple[object, ...] = (),
    ) -> None:
        self.ground = ground
        self.step = step
        self.part = part  # keys its randomness, where the step has several problems
        self.batch = batch = ground.aligned(batch)
        summed = None if ground.processes is None else ground.processes.total
        self.units: Units = ground.layout.units(batch, without, summed)
        if without:
            batch = batch.only(set(self.units.tasks))
        if ground.device.type != "cpu":
            batch = batch.to(ground.device)
        cuts = ground.micro_batches
        self.pieces = [p for p in batch.split(cuts) if p.labels] if cuts > 1 else []
        self.pieces = self.pieces or [batch]
        self._lost = tuple(without)
        self._buffers = [buffer.clone() for buffer in ground.buffers]

    @property
    def network(self) -> Network:
        """The network in training."""
        return self.ground.network

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks present."""
        return self.units.tasks

    def without(self, tasks: Collection[str]) -> Problem:
        """The same step with the records of some tasks left out, nothing having happened yet."""
        self.restore()
        lost = (*self._lost, *tasks)
        return Problem(self.ground, self.batch, self.step, lost, self.part)

    def cut(self, pieces: int) -> list[Problem]:
        """Independent parts of the batch as problems of their own, each with its own mean losses.

        Rows are dealt one by one in the order of their numbers, so that each task's are spread over
        the parts and it does not matter which process has which; a part without labels is left out.
        """
        part_of = self._standing() % pieces
        parts = [self.batch.rows((part_of == part).nonzero()[:, 0]) for part in range(pieces)]
        found = [
            Problem(self.ground, part, self.step, self._lost, (*self.part, number))
            for number, part in enumerate(parts)
        ]
        return [part for part in found if part.tasks]

    def _standing(self) -> Tensor:
        """Where each row of the batch [B] stands among the rows of all processes, by its number."""
        ids, processes = self.batch.ids, self.ground.processes
        start = 0
        if processes is not None:
            counts = ids.new_zeros(processes.size)
            counts[processes.rank] = len(ids)
            counts = processes.total(counts)
            start = int(counts[: processes.rank].sum())
            every = ids.new_zeros(int(counts.sum()))
            every[start : start + len(ids)] = ids
            ids = processes.total(every)
        return ids.argsort(stable=True).argsort()[start : start + len(self.batch)]

    def held_out(self) -> Problem:
        """The step's held-out batch, as a problem of its own."""
        feed = self.ground.validation
        if feed is None:
            raise ValueError("this needs held-out rows: give `fit` a feed of them as `validation`")
        batch = feed.batch(self.step)
        return Problem(self.ground, batch, self.step, self._lost, (*self.part, "validation"))

    @cached_property
    def validation(self) -> Tensor | None:
        """The losses [t] on held-out rows in evaluation mode, NaN for a task that has none."""
        if self.ground.validation is None or "validation" in self.part:
            return None
        other = self.held_out()
        with evaluating(self.network):
            losses = other.measure()
        whole = losses.new_full((len(self.ground.layout.names),), math.nan)
        if other.units.places is None:
            whole = losses
        else:
            whole[other.units.places] = losses
        return self.units.pick(whole)

    def restore(self) -> None:
        """Put the network's buffers (running statistics) back to where the step began."""
        for buffer, old in zip(self.ground.buffers, self._buffers, strict=True):
            buffer.copy_(old)

    def look(self, number: int, only: str | None = None) -> tuple[Losses, Tensor | None]:
        """The losses of a piece, with their graph, and the network's penalties on it.

        ``only`` leaves out the records of all other tasks; rows stay.
        """
        if not len(self.pieces[number]):  # all rows of this part are with other processes
            return self._no_losses(), None
        piece, outputs = self.run(number, only)
        losses = total(piece, outputs, self.units) if piece.labels else self._no_losses()
        return losses, self.penalty(outputs, piece)

    def _no_losses(self) -> Losses:
        """Zeros [t], in the precision that losses have where there are labels."""
        wide = torch.promote_types(self.ground.parameters[0].dtype, torch.float32)
        return self._losses(torch.zeros_like(self.units.total, dtype=wide))

    @cached_property
    def rows(self) -> float:
        """The rows of the whole batch, those of other processes included."""
        rows = len(self.batch)
        if self.ground.processes is None:
            return rows
        return float(self.ground.total(torch.tensor(float(rows), device=self.ground.device)))

    def penalty(self, outputs: Outputs, piece: Batch) -> Tensor | None:
        """The sum of the network's penalties, by the piece's share of the rows."""
        if not outputs.penalties:
            return None
        share = len(piece) / self.rows
        return torch.stack(list(outputs.penalties.values())).sum() * share

    def run(self, number: int, only: str | None = None) -> tuple[Batch, Outputs]:
        """A piece, and what the network makes of it."""
        ground, piece = self.ground, self.pieces[number]
        if only is not None:
            piece = piece.only({only})
        ground.reseed("forward", self.step, number, *self.part)
        with self._precision():
            return piece, ground.network(piece.parts, piece.labels)

    def records(self, number: int) -> tuple[Tensor, Tensor]:
        """weight·loss [N] of a piece's records with their graph, and each one's place [N].

        ``ground.layout.names[place]`` is its task; a task's loss is the sum over the whole batch
        divided by its ``units``.
        """
        return records_of(*self.run(number), self.ground.layout)

    @torch.no_grad()
    def measure(self) -> Tensor:
        """The losses [t] of the whole batch as the network is now; nothing of it changes."""
        with self.kept_buffers():
            values = [self.look(number)[0].value for number in range(len(self.pieces))]
        return self.ground.total(values[0] if len(values) == 1 else torch.stack(values).sum(0))

    def descend(
        self,
        losses: Losses,
        penalty: Tensor | None,
        weights: Tensor,
        heads: Tensor | None = None,
    ) -> None:
        """Add the gradient of Σ α_i L_i and the penalty to every parameter.

        ``heads`` [t] are other weights for what is not shared.
        """
        if not losses.value.requires_grad:  # another process has the labels
            return
        value = torch.dot(weights.to(losses.value.dtype), losses.value)
        if heads is None:
            (value if penalty is None else value + penalty).backward()  # type: ignore[no-untyped-call]
            return
        ground = self.ground
        accumulate(ground.shared, _gradients(value, ground.shared, retain=True))
        other = torch.dot(heads.to(losses.value.dtype), losses.value)
        accumulate(ground.specific, _gradients(other, ground.specific, retain=penalty is not None))
        if penalty is not None:
            accumulate(ground.parameters, _gradients(penalty, ground.parameters))

    def task_gradients(self, balancer: Balancer | None = None) -> TaskGradients:
        """The exact gradients of every task, summed over micro-batches.

        For a ``balancer`` those of one piece are held as its products need them. Raises
        :class:`NotFiniteError` for tasks whose loss or gradient is not finite.
        """
        self.check_shared()
        found: TaskGradients | None = None
        whole = balancer is None or len(self.pieces) > 1 or self.ground.processes is not None
        for number in range(len(self.pieces)):
            piece = self._piece_gradients(*self.look(number), None if whole else balancer)
            found = piece if found is None else found.plus(piece)
        assert found is not None
        found = self._of_all(found)
        self.signals(found.losses)
        self.check_finite(found.shared)
        return found

    def _of_all(self, found: TaskGradients) -> TaskGradients:
        """What all processes have found together."""
        ground = self.ground
        if ground.processes is None:
            return found
        assert isinstance(found.shared, Gathered)
        penalties = found.penalties
        if penalties is not None:
            penalties = ground.gradients(penalties, ground.parameters)
        return TaskGradients(
            ground.total(found.losses),
            ground.processes.gathered(found.shared),
            ground.gradients(found.heads, ground.specific),
            penalties,
        )

    def share(self) -> None:
        """Sum the gradients that each process has filled from its own rows."""
        ground = self.ground
        if ground.processes is not None:
            found = ground.gradients([p.grad for p in ground.parameters], ground.parameters)
            for parameter, gradient in zip(ground.parameters, found, strict=True):
                parameter.grad = gradient

    def check_shared(self) -> None:
        """``ValueError`` where nothing is shared, and so nothing can be compared."""
        if not self.ground.shared:
            raise ValueError(
                "this balancer or procedure compares gradients on shared parameters, and the "
                "network has none"
            )

    def check_finite(self, found: Gathered | Blocks) -> None:
        """:class:`NotFiniteError` names the tasks whose gradient is not finite."""
        assert isinstance(found, Gathered)
        if not found.finite().all():
            # In one graph a gradient that is not finite spoils those of other tasks as well.
            raise NotFiniteError(self.culprits() or self.tasks)

    def _piece_gradients(
        self, losses: Losses, penalty: Tensor | None, balancer: Balancer | None
    ) -> TaskGradients:
        ground, extra = self.ground, None
        whole = balancer is None
        if not losses.value.requires_grad:
            none: list[Tensor | None] = [None] * len(ground.specific)
            empty = Gathered(ground.shared, [], len(self.tasks))
            return TaskGradients(losses.value, empty, none, None)
        found = gather(roots_of(losses), ground.shared, ground.engine, balancer, whole=whole)
        if penalty is not None and penalty.requires_grad:
            extra = _gradients(penalty, ground.parameters, retain=True)
        heads = _gradients(losses.value.sum(), ground.specific)
        return TaskGradients(losses.value.detach(), found, heads, extra)

    def fill(self, balancer: Balancer, signals: Signals, found: TaskGradients) -> None:
        """Add what a balancer made of the task gradients to the parameters that are not shared."""
        weights = signals.weights if balancer.weights_heads else signals.preferences
        if weights is not None and (balancer.weights_heads or not self.ground.even):
            found.heads = self.weighed(found.heads, weights)
        accumulate(self.ground.specific, found.heads)
        if found.penalties is not None:
            accumulate(self.ground.parameters, found.penalties)

    def weighed(self, heads: Sequence[Tensor | None], weights: Tensor) -> list[Tensor | None]:
        """Gradients of specific parameters, each task's own entries times its weight [t]."""
        whole = self.spread(weights)
        pairs = zip(self.ground.specific, heads, strict=True)
        return [None if g is None else g * self.column(whole, p).to(g) for p, g in pairs]

    def spread(self, values: Tensor) -> Tensor:
        """Values of the tasks present [t] laid out over all tasks [T], zero for the others."""
        places = self.units.places
        if places is None:
            return values
        return values.new_zeros(len(self.ground.layout.names)).index_copy(0, places, values)

    def column(self, whole: Tensor, parameter: nn.Parameter) -> Tensor:
        """The entries of a task vector [T] for a specific parameter, shaped to multiply it."""
        entries = whole[self.ground.places(parameter)]
        if task_slices(parameter) is None:
            return entries.reshape(())
        return entries.view(-1, *[1] * (parameter.ndim - 1))

    def signals(self, losses: Tensor) -> Signals:
        """The signals of the losses' rung; :class:`NotFiniteError` names tasks without a number."""
        if not losses.isfinite().all():
            raise NotFiniteError(_where(self.tasks, ~losses.isfinite()))
        return self.told(losses)

    def told(self, losses: Tensor) -> Signals:
        """The same without looking at the numbers."""
        return signals_of(self._losses(losses), self.step, self.ground.seed, self.validation)

    def _losses(self, value: Tensor) -> Losses:
        layout, units = self.ground.layout, self.units
        pick = units.pick
        return Losses(
            units.tasks, value, units.total, pick(layout.preferences), pick(layout.gaussian)
        )

    def alone(self, place: int) -> list[Tensor | None]:
        """One task's gradient on all parameters, the shared first, from its own records only."""
        found: list[Tensor | None] = [None] * len(self.ground.parameters)
        for number, piece in enumerate(self.pieces):
            if len(piece.task(self.tasks[place])):
                losses, _ = self.look(number, only=self.tasks[place])
                found = added(found, _gradients(losses.value[place], self.ground.parameters))
        return self.ground.gradients(found, self.ground.parameters)

    def culprits(self) -> tuple[str, ...]:
        """The tasks whose own loss or gradient, each run by itself, is not finite."""
        losses, found = self.measure(), []
        with self.kept_buffers():
            for place, name in enumerate(self.tasks):
                parts = [losses[place], *(g for g in self.alone(place) if g is not None)]
                if not all(bool(part.isfinite().all()) for part in parts):
                    found.append(name)
        return tuple(found)

    @contextmanager
    def kept_buffers(self) -> Iterator[None]:
        """Forwards inside leave running statistics as they are."""
        old = [buffer.clone() for buffer in self.ground.buffers]
        try:
            yield
        finally:
            for buffer, value in zip(self.ground.buffers, old, strict=True):
                buffer.copy_(value)

    def _precision(self) -> AbstractContextManager[Any]:
        lower = self.ground.autocast
        if lower is False:
            return nullcontext()
        dtype = torch.bfloat16 if lower is True else lower
        return torch.autocast(self.ground.device.type, dtype=dtype)


def _gradients(
    value: Tensor, parameters: Sequence[nn.Parameter], *, retain: bool = False
) -> list[Tensor | None]:
    if not parameters or not value.requires_grad:
        return [None] * len(parameters)
    return list(torch.autograd.grad(value, parameters, retain_graph=retain, allow_unused=True))


def _where(tasks: Sequence[str], mask: Tensor) -> tuple[str, ...]:
    return tuple(name for name, yes in zip(tasks, mask.tolist(), strict=True) if yes)
