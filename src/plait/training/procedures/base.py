"""What a training step can see and do: a problem, and the procedure that fills its gradients."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, Signals
from plait.batch import Batch
from plait.data.seeding import key
from plait.method import Method
from plait.networks import Network
from plait.networks.base import task_slices
from plait.training.engine import (
    Blocks,
    Engine,
    NotFiniteError,
    accumulate,
    diagonal,
    roots_of,
    signals_of,
    task_gradients,
)
from plait.training.measuring import Alignment, Layout, Losses, Units, total


@dataclass
class Ground:
    """What stays the same over a training. ``autocast`` runs forwards in bfloat16, or as given."""

    network: Network
    seed: int = 0
    micro_batches: int = 1
    autocast: bool | torch.dtype = False
    engine: Engine = field(default_factory=Engine)

    def __post_init__(self) -> None:
        parameters = list(self.network.parameters())
        self.device = parameters[0].device if parameters else torch.device("cpu")
        self.layout = Layout(self.network.tasks, self.device)
        self.shared = self.network.shared_parameters()
        self.specific = self.network.specific_parameters()
        self.parameters = [*self.shared, *self.specific]
        moving = (b for b in self.network.buffers() if b.is_floating_point())
        self.buffers = [buffer for buffer in moving if buffer.numel()]
        self.even = bool((self.layout.preferences == 1).all())
        self._places: dict[tuple[str, ...], Tensor] = {}
        self._alignments: dict[int, Alignment] = {}
        self._owners: dict[nn.Parameter, tuple[str, ...]] | None = None

    def aligned(self, batch: Batch) -> Batch:
        """The batch with its records numbered as the network's tasks are."""
        if batch.tasks is self.network.tasks:
            return batch
        known = self._alignments.get(id(batch.tasks))
        if known is None:
            known = self._alignments[id(batch.tasks)] = Alignment(batch.tasks, self.network.tasks)
        return known(batch)

    def places(self, parameter: nn.Parameter) -> Tensor:
        """Where the owners of a specific parameter's slices stand in the layout."""
        if self._owners is None:
            reach = self.network.reach()
            named = dict(self.network.named_parameters())
            self._owners = {named[n]: tuple(tasks) for n, tasks in reach.items() if n in named}
        names = task_slices(parameter) or self._owners[parameter]
        if names not in self._places:
            found = [self.layout.names.index(name) for name in names]
            self._places[names] = torch.tensor(found, device=self.device)
        return self._places[names]

    def reseed(self, *parts: object) -> None:
        """Key the randomness of the next forward (dropout, say)."""
        number = key(self.seed, *parts)
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(number)
        elif self.device.type == "mps":
            torch.mps.manual_seed(number)


@dataclass
class TaskGradients:
    """Exact task gradients of a whole batch.

    ``losses`` [t]; ``blocks`` on the shared parameters; ``heads`` the unweighted gradients on the
    specific ones, None where unreached; ``penalties`` on all of them, None where there are none.
    """

    losses: Tensor
    blocks: Blocks
    heads: list[Tensor | None]
    penalties: list[Tensor | None] | None


class Problem:
    """One step's work: a batch, cut into micro-batches, that can be looked at more than once.

    Every look at a piece uses the same randomness, so a dropout mask is the same each time.
    """

    def __init__(
        self, ground: Ground, batch: Batch, step: int, without: Collection[str] = ()
    ) -> None:
        self.ground = ground
        self.step = step
        self.batch = batch = ground.aligned(batch)
        self.units: Units = ground.layout.units(batch, without)
        if without:
            batch = batch.only(set(self.units.tasks))
        if ground.device.type != "cpu":
            batch = batch.to(ground.device)
        cuts = ground.micro_batches
        self.pieces = [p for p in batch.split(cuts) if p.labels] if cuts > 1 else [batch]
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
        return Problem(self.ground, self.batch, self.step, (*self._lost, *tasks))

    def restore(self) -> None:
        """Put the network's buffers (running statistics) back to where the step began."""
        for buffer, old in zip(self.ground.buffers, self._buffers, strict=True):
            buffer.copy_(old)

    def look(self, number: int, only: str | None = None) -> tuple[Losses, Tensor | None]:
        """The losses of a piece, with their graph, and the network's penalties on it.

        ``only`` leaves out the records of all other tasks; rows stay.
        """
        ground, piece = self.ground, self.pieces[number]
        if only is not None:
            piece = piece.only({only})
        ground.reseed("forward", self.step, number)
        with self._precision():
            outputs = ground.network(piece.parts, piece.labels)
        penalty = None
        if outputs.penalties:
            share = len(piece) / len(self.batch)
            penalty = torch.stack(list(outputs.penalties.values())).sum() * share
        return total(piece, outputs, self.units), penalty

    @torch.no_grad()
    def measure(self) -> Tensor:
        """The losses [t] of the whole batch as the network is now; nothing of it changes."""
        with self.kept_buffers():
            values = [self.look(number)[0].value for number in range(len(self.pieces))]
        return values[0] if len(values) == 1 else torch.stack(values).sum(0)

    def descend(self, losses: Losses, penalty: Tensor | None, weights: Tensor) -> None:
        """Add the gradient of Σ α_i L_i and the penalty to every parameter."""
        value = torch.dot(weights.to(losses.value.dtype), losses.value)
        (value if penalty is None else value + penalty).backward()  # type: ignore[no-untyped-call]

    def task_gradients(self) -> TaskGradients:
        """The exact gradients of every task, summed over micro-batches.

        Raises :class:`NotFiniteError` for tasks whose loss or gradient is not finite.
        """
        ground = self.ground
        if not ground.shared:
            raise ValueError(
                "this balancer or procedure compares gradients on shared parameters, and the "
                "network has none"
            )
        found: TaskGradients | None = None
        for number in range(len(self.pieces)):
            piece = self._piece_gradients(*self.look(number))
            found = piece if found is None else _sum(found, piece)
        assert found is not None
        self.signals(found.losses)
        finite = diagonal(found.blocks, len(self.tasks)).isfinite()
        if not finite.all():
            # In one graph a gradient that is not finite spoils those of other tasks as well.
            raise NotFiniteError(self.culprits() or self.tasks)
        return found

    def _piece_gradients(self, losses: Losses, penalty: Tensor | None) -> TaskGradients:
        ground, extra = self.ground, None
        roots = roots_of(losses)
        blocks = task_gradients(roots, ground.shared, ground.engine)
        if penalty is not None and penalty.requires_grad:
            extra = _gradients(penalty, ground.parameters, retain=True)
        heads = _gradients(losses.value.sum(), ground.specific)
        return TaskGradients(losses.value.detach(), blocks, heads, extra)

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
        layout = self.ground.layout
        if not losses.isfinite().all():
            raise NotFiniteError(_where(self.tasks, ~losses.isfinite()))
        return self.told(losses, layout)

    def told(self, losses: Tensor, layout: Layout | None = None) -> Signals:
        """The same without looking at the numbers."""
        layout = layout or self.ground.layout
        pick, units = self.units.pick, self.units
        told = Losses(
            units.tasks, losses, units.total, pick(layout.preferences), pick(layout.gaussian)
        )
        return signals_of(told, self.step, self.ground.seed)

    def alone(self, place: int) -> list[Tensor | None]:
        """One task's gradient on all parameters, the shared first, from its own records only."""
        found: list[Tensor | None] = [None] * len(self.ground.parameters)
        for number, piece in enumerate(self.pieces):
            if len(piece.task(self.tasks[place])):
                losses, _ = self.look(number, only=self.tasks[place])
                found = add(found, _gradients(losses.value[place], self.ground.parameters))
        return found

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


class Procedure(Method):
    """A method that changes the step itself; ``card.family`` is ``procedure``."""

    def prepare(self, network: Network) -> Network:
        """The network to train, before the optimizer is made."""
        return network

    def gradients(self, problem: Problem, balancer: Balancer) -> Signals:
        """Fill ``.grad`` of every parameter for one step, and say what was seen.

        Raises :class:`NotFiniteError`; ``fit`` then repeats the step without those tasks.
        """
        raise NotImplementedError


def _gradients(
    value: Tensor, parameters: Sequence[nn.Parameter], *, retain: bool = False
) -> list[Tensor | None]:
    if not parameters or not value.requires_grad:
        return [None] * len(parameters)
    return list(torch.autograd.grad(value, parameters, retain_graph=retain, allow_unused=True))


def add(old: Sequence[Tensor | None], new: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Sums of gradients that may be missing."""
    return [b if a is None else a if b is None else a + b for a, b in zip(old, new, strict=True)]


def _sum(one: TaskGradients, two: TaskGradients) -> TaskGradients:
    penalties = one.penalties or two.penalties
    if one.penalties is not None and two.penalties is not None:
        penalties = add(one.penalties, two.penalties)
    return TaskGradients(
        one.losses + two.losses,
        add(one.blocks, two.blocks),
        add(one.heads, two.heads),
        penalties,
    )


def _where(tasks: Sequence[str], mask: Tensor) -> tuple[str, ...]:
    return tuple(name for name, yes in zip(tasks, mask.tolist(), strict=True) if yes)
