"""Tasks: what is predicted, of which kind, and how the kinds differ.

    >>> tasks = TaskSet([Task(name="click", kind="binary"), Task(name="stars", kind="classes",
    ...                                                         classes=("1", "2", "3"))])
    >>> tasks.groups["classes-3"].tasks
    ('stars',)

Tasks whose heads have the same signature form a *head group*: their heads are one stacked tensor,
and a batch carries their labels together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, overload

from plait.kinds import KINDS, Kind, Place, kind_of
from plait.method import did_you_mean

__all__ = ["KINDS", "HeadGroup", "Kind", "Task", "TaskSet", "kind_of"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A name, a kind and what the training rows taught about its target.

    ``classes`` are the labels in order (binary: negative, positive). ``center`` and ``scale``
    standardise a real target: the network sees (y − center)/scale and users see y. ``preference``
    says how much the task counts among the others (labels have weights of their own). ``after``
    names the binary task that must happen first (a purchase comes after a click): wherever that one
    is negative this one is, so that its probability is that of the whole chain, on every row.
    """

    name: str
    kind: str = "binary"
    classes: tuple[str, ...] = ()
    center: float = 0.0
    scale: float = 1.0
    loss: str = ""
    metrics: tuple[str, ...] = ()
    preference: float = 1.0
    after: str = ""

    def __post_init__(self) -> None:
        kind = kind_of(self.kind)
        object.__setattr__(self, "kind", kind.name)
        object.__setattr__(self, "loss", self.loss or kind.loss)
        object.__setattr__(self, "metrics", tuple(self.metrics) or kind.metrics)
        object.__setattr__(self, "classes", tuple(self.classes))
        if kind.named and len(self.classes) < 2:
            raise ValueError(f"task {self.name!r}: kind {self.kind} needs two or more classes")
        if self.after and self.kind != "binary":
            raise ValueError(f"task {self.name!r}: only binary tasks come after another")
        if not self.scale > 0:
            raise ValueError(f"task {self.name!r}: scale must be positive, got {self.scale}")

    @property
    def outputs(self) -> int:
        """How many numbers its head emits for a record."""
        return KINDS[self.kind].outputs(len(self.classes))

    @property
    def place(self) -> Place:
        """What has a label: a row, or each token or pixel of it."""
        return KINDS[self.kind].place

    @property
    def named(self) -> bool:
        """Whether its predictions are the probabilities of its named classes, [N, C]."""
        return KINDS[self.kind].named

    @property
    def group(self) -> str:
        """The key of its head group: ``binary``, ``classes-6``, ``real``; the loss if unusual."""
        width = f"-{len(self.classes)}" if KINDS[self.kind].named else ""
        loss = f":{self.loss}" if self.loss != KINDS[self.kind].loss else ""
        return f"{self.kind}{width}{loss}"

    def to_json(self) -> dict[str, Any]:
        """The task as plain data; ``Task(**data)`` reads it back."""
        data = {
            "name": self.name, "kind": self.kind, "classes": list(self.classes),
            "center": self.center, "scale": self.scale, "loss": self.loss,
            "metrics": list(self.metrics), "preference": self.preference,
        }  # fmt: skip
        return {**data, "after": self.after} if self.after else data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Task:
        """Read :meth:`to_json` back; what was written as ``weight`` once is the preference."""
        return cls(**{"preference" if key == "weight" else key: data[key] for key in data})


@dataclass(frozen=True)
class HeadGroup:
    """Tasks with the same head signature, in the order of their set."""

    key: str
    kind: str
    outputs: int
    loss: str
    tasks: tuple[str, ...]

    @property
    def place(self) -> Place:
        """What has a label: a row, or each token or pixel of it."""
        return KINDS[self.kind].place

    @cached_property
    def position(self) -> Mapping[str, int]:
        """Task name → position in the group's stacked tensors."""
        return {name: i for i, name in enumerate(self.tasks)}


class TaskSet(Sequence[Task]):
    """Tasks in a fixed order, with their names, positions and head groups.

    Raises ``ValueError`` for duplicate names and for an empty set.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = tuple(tasks)
        names = [task.name for task in self._tasks]
        if not names:
            raise ValueError("a study needs at least one task")
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"task names must be unique; given twice: {', '.join(twice)}")
        for name in names:
            self.before(name)

    @overload
    def __getitem__(self, key: int | str) -> Task: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[Task]: ...
    def __getitem__(self, key: int | str | slice) -> Task | Sequence[Task]:
        if isinstance(key, str):
            if key not in self.position:
                raise KeyError(f"no task {key!r}{did_you_mean(key, self.names)}")
            return self._tasks[self.position[key]]
        return self._tasks[key]

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks)

    def __contains__(self, key: object) -> bool:
        return key in self.position if isinstance(key, str) else key in self._tasks

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskSet) and self._tasks == other._tasks

    def __hash__(self) -> int:
        return hash(self._tasks)

    def __repr__(self) -> str:
        shown = ", ".join(self.names[:6]) + (", …" if len(self) > 6 else "")
        return f"TaskSet({len(self)} tasks: {shown})"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Task names in order."""
        return tuple(task.name for task in self._tasks)

    @cached_property
    def position(self) -> Mapping[str, int]:
        """Task name → position."""
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def groups(self) -> Mapping[str, HeadGroup]:
        """Head groups by key, in order of first appearance."""
        found: dict[str, list[Task]] = {}
        for task in self._tasks:
            found.setdefault(task.group, []).append(task)
        return {
            key: HeadGroup(key, members[0].kind, members[0].outputs, members[0].loss,
                           tuple(task.name for task in members))
            for key, members in found.items()
        }  # fmt: skip

    def before(self, name: str) -> tuple[str, ...]:
        """The tasks of this set that come before the named one in its chain, the first one first.

        A task that comes after one outside the set begins its chain here. Raises ``ValueError``
        for a chain that bites its tail and for one through a task that is not binary.
        """
        chain: list[str] = []
        while (earlier := self[chain[0] if chain else name].after) in self.position:
            if earlier == name or earlier in chain:
                raise ValueError(f"task {name!r} comes after itself, by way of {earlier!r}")
            if self[earlier].kind != "binary":
                kind = self[earlier].kind
                raise ValueError(f"{earlier!r} is {kind}; tasks come after binary ones only")
            chain.insert(0, earlier)
        return tuple(chain)

    def at_once(self, most: int) -> int:
        """How many rows are run at once, of at most so many: few where every pixel has outputs."""
        pixels = any(task.place == "pixel" for task in self)
        return max(16, most // 64) if pixels else most

    def subset(self, names: Iterable[str]) -> TaskSet:
        """The named tasks, in this set's order; ``KeyError`` for an unknown name."""
        wanted = {self[name].name for name in names}
        return TaskSet(task for task in self._tasks if task.name in wanted)

    def replace(self, name: str, **changes: Any) -> TaskSet:
        """The same set with one task changed."""
        return TaskSet(replace(t, **changes) if t.name == name else t for t in self._tasks)
