"""What networks are made of: encoders, trunks, and parameters with one slice for each task.

A :class:`Trunk` turns the inputs of a batch into one feature vector for each record; a
:class:`Sharing` method builds one from an encoder. Parameters are *shared* unless they lie in a
:class:`TaskBank`, whose slices belong to one task each; a :class:`Bank` is a stack that is shared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from plait.batch import Parts, Records
from plait.data.seeding import key
from plait.kinds import Place
from plait.method import Method
from plait.networks.chains import Chain
from plait.task import TaskSet

Start = Callable[[Tensor, torch.Generator], object]  # fills one task's slice in place


def _uniform(slice_: Tensor, generator: torch.Generator, bound: float) -> None:
    slice_.uniform_(-bound, bound, generator=generator)


def _filled(slice_: Tensor, generator: torch.Generator, value: float) -> None:  # noqa: ARG001
    slice_.fill_(value)


def _normal(slice_: Tensor, generator: torch.Generator, std: float) -> None:
    slice_.normal_(0.0, std, generator=generator)


def uniform(fan_in: int) -> Start:
    """Start from U(±1/√fan_in), as ``nn.Linear`` does."""
    return partial(_uniform, bound=max(fan_in, 1) ** -0.5)


def normal(std: float) -> Start:
    """Start from N(0, std²)."""
    return partial(_normal, std=std)


zeros: Start = partial(_filled, value=0.0)
ones: Start = partial(_filled, value=1.0)


Name = str | None  # a task's, or None for what belongs to no task
Slice = tuple[Name, Name, int]  # whose it is, what of another's it is about, its number among such


class Bank(nn.Module):
    """Stacked parameters [S, ...] with one slice for each name.

    ``trainers`` [S] are the tasks that train each slice, where not all may train all.

    ``about`` names, where slices of one name tell something of each other task, that task. A slice
    starts from randomness keyed by (seed, place, slice): adding or permuting tasks changes no
    start. Every parameter beneath carries ``plait_order``, its slices.
    """

    def __init__(
        self,
        names: Sequence[Name],
        about: Sequence[Name] | None = None,
        trainers: Sequence[frozenset[str]] | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.trainers = None if trainers is None else tuple(trainers)
        self.slices = tuple(_numbered(self.names, about or [None] * len(self.names)))
        self.starts: dict[str, Start | Sequence[Start]] = {}
        self.notes: dict[str, float] = {}
        self.paces: dict[str, float] = {}

    def add(
        self,
        name: str,
        *shape: int,
        start: Start | Sequence[Start] = zeros,
        pace: float = 1.0,
    ) -> nn.Parameter:
        """Add a parameter [S, *shape] whose slices ``start``, or one for each, fills at first.

        It learns at ``pace`` times the rate of training.
        """
        if pace != 1.0:
            self.paces[name] = pace
        parameter = nn.Parameter(torch.zeros(len(self.names), *shape))
        self.register_parameter(name, parameter)
        self.starts[name] = start
        self.reset()
        return parameter

    def draw(self, name: str, *shape: int, start: Start) -> None:
        """Add constants [S, *shape] that start as a parameter's slices do, and are not trained."""
        self.register_buffer(name, torch.zeros(len(self.names), *shape))
        self.starts[name] = start
        self.reset()

    def note(self, name: str, value: float) -> None:
        """Add a constant [S] that is stored for each slice and not trained."""
        self.notes[name] = value
        self.register_buffer(name, torch.full((len(self.names),), value))

    def track(self, name: str, *shape: int, value: float) -> None:
        """Add a buffer [S, *shape] that moves by slice, in place, without gradients."""
        self.register_buffer(name, torch.full((len(self.names), *shape), value))
        self.mark()

    def stack(self, name: str) -> Tensor:
        """A parameter or constant [S, ...], or what ``functional_call`` puts in its place."""
        found: Tensor = getattr(self, name)
        return found

    @torch.no_grad()
    def reset(self, seed: int = 0, place: str = "") -> None:
        """Start afresh, each slice keyed by (seed, place, parameter, slice)."""
        generator = torch.Generator()
        for name, start in self.starts.items():
            fresh = torch.empty(self.stack(name).shape)
            starts = [start] * len(fresh) if callable(start) else start
            for (owner, about, number), begin, slice_ in zip(
                self.slices, starts, fresh, strict=True
            ):
                more = (about, number) if about is not None or number else ()
                begin(slice_, generator.manual_seed(key(seed, place, name, owner, *more)))
            self.stack(name).copy_(fresh)

    @torch.no_grad()
    def select(self, names: Sequence[str], seed: int = 0, place: str = "") -> None:
        """Hold one slice for each of these names; those of new names start as in :meth:`reset`."""
        before = {name: position for position, name in enumerate(self.names)}
        old = {name: self.stack(name) for name in self.starts}
        kept = {name: self.get_buffer(name) for name in self.notes}
        self.names = tuple(names)
        self.slices = tuple(_numbered(self.names, [None] * len(names)))
        there = [(row, before[name]) for row, name in enumerate(names) if name in before]
        for name, value in old.items():
            fresh = value.new_empty(len(names), *value.shape[1:])
            if isinstance(value, nn.Parameter):
                fresh = nn.Parameter(fresh, requires_grad=value.requires_grad)
            setattr(self, name, fresh)
        self.reset(seed, place)
        for name, buffer in kept.items():
            self.register_buffer(name, buffer.new_full((len(names),), self.notes[name]))
        for row, position in there:
            for name, value in (*old.items(), *kept.items()):
                getattr(self, name)[row] = value[position]

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter whose leading dimension counts the names; ``ValueError`` if not."""
        if param is not None and (param.ndim == 0 or len(param) != len(self.names)):
            raise ValueError(
                f"parameter {name!r} of a bank of {len(self.names)} slices needs that leading "
                f"dimension, got shape {tuple(param.shape)}"
            )
        super().register_parameter(name, param)
        self.mark()

    def mark(self) -> None:
        """Write the slices on every parameter beneath, and who trains them, and on own buffers."""
        for buffer in self.buffers(recurse=False):
            buffer.plait_order = self.slices  # type: ignore[attr-defined]
        for parameter in self.parameters():
            parameter.plait_order = self.slices  # type: ignore[attr-defined]
            parameter.plait_trainers = self.trainers  # type: ignore[attr-defined]

    # Copies and moves may make new parameters, which would lose the mark.
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.mark()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Bank:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.mark()
        return self


class TaskBank(Bank):
    """A bank whose every slice is trained by the task of its name, and by no other.

    Every parameter beneath carries ``plait_tasks`` too, so that optimizers and engines can leave
    the slices of absent tasks alone. A task may have several slices.
    """

    names: tuple[str, ...]

    def __init__(self, names: Sequence[str], about: Sequence[Name] | None = None) -> None:
        super().__init__(names, about)

    def mark(self) -> None:
        """Write the tasks' names on every parameter beneath, and on own buffers."""
        super().mark()
        for buffer in self.buffers(recurse=False):
            buffer.plait_tasks = self.names  # type: ignore[attr-defined]
        for parameter in self.parameters():
            parameter.plait_tasks = self.names  # type: ignore[attr-defined]


def _numbered(names: Iterable[Name], about: Iterable[Name]) -> Iterator[Slice]:
    seen: Counter[tuple[Name, Name]] = Counter()
    for pair in zip(names, about, strict=True):
        yield (*pair, seen[pair])
        seen[pair] += 1


def bank_slices(parameter: Tensor) -> tuple[Slice, ...] | None:
    """The slices of a bank's parameter (or buffer), in order; None outside of banks."""
    return getattr(parameter, "plait_order", None)


def slice_trainers(parameter: Tensor) -> tuple[frozenset[str], ...] | None:
    """The tasks that train each slice of a bank's parameter; None where all may train all of it."""
    tasks = task_slices(parameter)
    if tasks is not None:
        return tuple(frozenset({task}) for task in tasks)
    return getattr(parameter, "plait_trainers", None)


def trainers_of(parameter: Tensor, everyone: Iterable[str]) -> frozenset[str]:
    """The tasks that train some of a parameter: ``everyone``, unless its slices say less."""
    slices = slice_trainers(parameter)
    return frozenset(everyone) if slices is None else frozenset().union(*slices)


def paces_of(network: nn.Module) -> dict[nn.Parameter, float]:
    """The parameters that learn at a pace of their own, as factors on the rate."""
    return {
        module.get_parameter(name): pace
        for module in network.modules()
        if isinstance(module, Bank)
        for name, pace in module.paces.items()
    }


def task_slices(parameter: Tensor) -> tuple[str, ...] | None:
    """The tasks that own the parameter's slices, in order; None for an unsliced parameter."""
    return getattr(parameter, "plait_tasks", None)


@contextmanager
def seeded(*parts: object) -> Iterator[None]:
    """Modules made inside start from randomness keyed by the parts; the global state is kept."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(key(*parts))
    try:
        yield
    finally:
        torch.set_rng_state(state)


# Told which rows of those at hand run next, for what inside depends on the row.
Among = Callable[[Tensor], AbstractContextManager[None]]


def alike(rows: Tensor) -> AbstractContextManager[None]:  # noqa: ARG001
    """Nothing inside depends on the row."""
    return nullcontext()


class Encoder(nn.Module):
    """Inputs → one vector per row: ``forward(parts)`` gives [B, width].

    The rows of several parts are run and concatenated in the order of the parts. ``spec`` is the
    plain data the encoder is made of, enough to make an equal one without any other file. Wherever
    only some of the rows run, it is within ``among(rows)``: adapters inside follow the rows' tasks.
    """

    width: int
    among: Among = staticmethod(alike)

    @property
    def spec(self) -> dict[str, Any]:
        """The encoder as plain data, read back by ``make_encoder``."""
        raise NotImplementedError

    def forward(self, parts: Parts) -> Tensor:
        """(parts) → [B, width]; [B·P, width] where positions are asked for (``positions.at``)."""
        raise NotImplementedError

    def grid(self, parts: Parts, place: Place) -> Tensor:
        """Which positions each row has: bool [B, ...], of P positions in all."""
        raise NotImplementedError

    def canvas(self, parts: Parts) -> tuple[int, ...]:
        """The height and width of the images whose pixels are labelled."""
        raise NotImplementedError


class MakeEncoder(Protocol):
    """Makes encoders of one kind; those made for the same ``who`` start equal."""

    def __call__(self, who: str = "") -> Encoder:
        """A new encoder, its start keyed by (seed, who)."""


@dataclass(frozen=True)
class Features:
    """One vector per record, stored once per row where records share rows.

    ``values`` [V, width]; ``rows`` [N] is the row of ``values`` that each record reads, None where
    they are the records themselves. Heads read shared rows by one product instead of a gather.
    """

    values: Tensor
    rows: Tensor | None = None

    @property
    def records(self) -> Tensor:
        """[N, width], one vector per record."""
        return self.values if self.rows is None else self.values.index_select(0, self.rows)


class Trunk(nn.Module):
    """The part of a network between inputs and heads.

    ``forward(parts, asked)`` gives the :class:`Features` of the records asked for, by head group,
    and penalties: scalars by name that training adds to the loss. ``width`` is the features' last
    dimension. ``chain`` is what follows the heads where tasks' outputs depend on one another.
    """

    order: Tensor
    chain: Chain | None = None

    def __init__(self, tasks: TaskSet, width: int) -> None:
        super().__init__()
        self.width = width
        self.seat(tasks)

    def seat(self, tasks: TaskSet) -> None:
        """Serve these tasks; the places of records follow their order."""
        self.tasks = tasks
        order = [tasks.position[name] for group in tasks.groups.values() for name in group.tasks]
        device = next((p.device for p in self.parameters()), None)
        self.register_buffer("order", torch.tensor(order, device=device), persistent=False)
        sizes = [0, *(len(group.tasks) for group in tasks.groups.values())]
        self.offsets = {g: sum(sizes[: i + 1]) for i, g in enumerate(tasks.groups)}

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        """(parts, records by head group) → (features by head group, penalties)."""
        raise NotImplementedError

    def advance(self, step: int) -> None:
        """Training is at this step; for what changes with it."""

    def positions(self, group: str, records: Records) -> Tensor:
        """The records' tasks [N] as positions in the whole task set."""
        return self.order[records.task + self.offsets[group]]

    def reach(self) -> dict[str, frozenset[str]]:
        """Parameter name → the tasks that train it; override where some reach fewer than all."""
        everyone = self.tasks.names
        return {n: trainers_of(p, everyone) for n, p in self.named_parameters()}

    def last_shared(self) -> list[nn.Parameter]:
        """The parameters of the last layer that all its tasks share, in order of registration."""
        reach = self.reach()
        for path, module in reversed(list(self.named_modules())):
            own = {f"{path}.{n}".lstrip("."): p for n, p in module.named_parameters(recurse=False)}
            common = [p for n, p in own.items() if _shared(p, reach.get(n, frozenset()))]
            if any(parameter.ndim > 1 for parameter in common):
                return common
        return []


class Sharing(Method):
    """A way for tasks to share a network; ``card.family`` is ``sharing``."""

    place: ClassVar[Place] = "row"  # what its encoder must have vectors for inside

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The trunk for these tasks on an encoder; called with torch's randomness already keyed."""
        raise NotImplementedError


def _shared(parameter: nn.Parameter, tasks: frozenset[str]) -> bool:
    return parameter.requires_grad and task_slices(parameter) is None and len(tasks) > 1


def escape(name: str) -> str:
    """A name as a submodule's name: no dots, and no attribute of a module (``type``, ``keys``).

    >>> escape("text.review"), escape("type"), escape("a%b")
    ('text%2Ereview', '%type', 'a%25b')
    """
    plain = name.replace("%", "%25").replace(".", "%2E")
    return f"%{plain}" if not plain or hasattr(nn.ModuleDict(), plain) else plain
