"""How rows and tasks are mixed into batches; every feed is a pure function of the step.

Nothing is remembered between steps but a cache, so a resumed run needs no state. Randomness is
keyed by (seed, pass, task name): the order in which tasks are declared changes no task's deck.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch

from plait.batch import Batch
from plait.data.dataset import Dataset, Split
from plait.data.seeding import generator, key
from plait.data.stores import Array

Mixing = Literal["proportional", "uniform", "round_robin", "temperature"]


class Feed(Protocol):
    """Batches by step; ``steps`` make one pass."""

    steps: int

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0 over all passes."""
        ...


class Rows:
    """Every labelled row once a pass, with all its labels: tasks in proportion to their labels.

    The rows of a pass are cut evenly into batches of at most ``batch`` rows.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch: int,
        seed: int,
        split: Split = "train",
        tasks: Collection[str] | None = None,
    ) -> None:
        self.dataset = dataset
        self.seed = seed
        self.tasks = tasks
        self.deck = _rows(dataset, split, tasks)
        self.steps = -(-len(self.deck) // batch)
        self._edges = np.linspace(0, len(self.deck), self.steps + 1).astype(np.int64)
        self._pass = -1
        self._shuffled = self.deck

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        number, place = divmod(step, self.steps)
        if number != self._pass:
            order = generator(self.seed, "rows", number).permutation(len(self.deck))
            self._pass, self._shuffled = number, self.deck[order]
        rows = self._shuffled[self._edges[place] : self._edges[place + 1]]
        return self.dataset.batch(torch.from_numpy(rows), self.tasks)


def _rows(dataset: Dataset, split: Split, tasks: Collection[str] | None) -> Array:
    if tasks is None:
        found = dataset.rows(split).numpy()
    else:
        found = np.unique(np.concatenate([dataset.rows(split, name).numpy() for name in tasks]))
    if not len(found):
        raise ValueError(f"no labelled rows to draw from in split {split!r}")
    return found


class _Decks:
    """One endless deck of records per task: shuffled anew each time it has been dealt."""

    def __init__(
        self, dataset: Dataset, seed: int, split: Split, tasks: Collection[str] | None
    ) -> None:
        chosen = dataset.tasks.names if tasks is None else dataset.tasks.subset(tasks).names
        found = {name: dataset.places(name, split) for name in chosen}
        self.dataset = dataset
        self.seed = seed
        self.places = {name: places for name, places in found.items() if len(places)}
        if not self.places:
            raise ValueError(f"no labelled rows to draw from in split {split!r}")
        self.names: Sequence[str] = tuple(self.places)
        self.sizes = np.array([len(places) for places in self.places.values()])
        # Where in its cycle each task starts, so that not all small decks deal on the same step.
        self.phase = np.array([key(seed, "phase", name) / 2**63 for name in self.names])
        self._dealt: dict[str, tuple[int, Array]] = {}

    def _shuffled(self, name: str, number: int) -> Array:
        cached = self._dealt.get(name)
        if cached is None or cached[0] != number:
            places = self.places[name]
            order = generator(self.seed, "deck", number, name).permutation(len(places))
            cached = self._dealt[name] = (number, places[order])
        return cached[1]

    def deal(self, name: str, start: int, stop: int) -> Array:
        """The cards ``start`` to ``stop`` of a task's endless deck."""
        size, found = len(self.places[name]), []
        while start < stop:
            number, low = divmod(start, size)
            high = min(low + stop - start, size)
            found.append(self._shuffled(name, number)[low:high])
            start += high - low
        return found[0] if len(found) == 1 else np.concatenate(found)

    def batch(self, start: Array, stop: Array) -> Batch:
        """The cards ``start[t]`` to ``stop[t]`` of every task that has any."""
        tasks = self.dataset.tasks
        drawn: dict[str, list[Array]] = {}
        for place in np.flatnonzero(stop > start).tolist():
            name = self.names[place]
            cards = self.deal(name, int(start[place]), int(stop[place]))
            drawn.setdefault(tasks[name].group, []).append(cards)
        return self.dataset.drawn({key: np.concatenate(cards) for key, cards in drawn.items()})


class ByTask:
    """Draw tasks, then rows: a drawn row carries the record of the task it was drawn for only.

    Task t gets the share p_t of every batch's rows: p_t ∝ n_t^(1/τ) for ``temperature`` τ (1 is
    proportional to its n_t labels, large is uniform), ``uniform``, or ``round_robin``: one task a
    step, in an order that the seed decides. Small decks cycle. A pass has as many rows as there are
    labels.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch: int,
        seed: int,
        mixing: Mixing = "temperature",
        temperature: float = 2.0,
        split: Split = "train",
        tasks: Collection[str] | None = None,
    ) -> None:
        if mixing not in ("proportional", "uniform", "round_robin", "temperature"):
            raise ValueError(
                f"no mixing {mixing!r}; valid: proportional, uniform, round_robin, temperature"
            )
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self._decks = _Decks(dataset, seed, split, tasks)
        sizes = self._decks.sizes.astype(float)
        power = {"proportional": 1.0, "temperature": 1.0 / temperature}.get(mixing, 0.0)
        weight = (sizes / sizes.max()) ** power
        self.shares = dict(zip(self._decks.names, (weight / weight.sum()).tolist(), strict=True))
        self.steps = -(-int(sizes.sum()) // batch)
        self._quota = batch * weight / weight.sum()
        self._turn: Array | None = None
        self._size = batch
        if mixing == "round_robin":
            order = sorted(range(len(sizes)), key=lambda t: key(seed, "turn", self._decks.names[t]))
            self._turn = np.argsort(order)
            self.steps = max(self.steps, len(order))

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        start, stop = self._taken(step), self._taken(step + 1)
        if not (stop > start).any():
            # Fewer rows than tasks: let the task that is next in line deal its card now.
            due = (step + 1) * self._quota + self._decks.phase
            stop = start + (np.arange(len(start)) == np.argmax(due % 1))
        return self._decks.batch(start, stop)

    def _taken(self, step: int) -> Array:
        """How many cards each task has dealt before a step."""
        taken: Array
        if self._turn is None:
            taken = np.floor(step * self._quota + self._decks.phase).astype(np.int64)
        else:
            rounds, place = divmod(step, len(self._turn))
            taken = self._size * (rounds + (self._turn < place))
        return taken


class SideBySide:
    """Every step draws from every task: after ``steps`` steps each of its rows was drawn once.

    For tasks that are trained side by side, each on its own: n_t/steps rows of task t a step
    (rounded down or up), with the record of that task only.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        steps: int,
        seed: int,
        split: Split = "train",
        tasks: Collection[str] | None = None,
    ) -> None:
        self._decks = _Decks(dataset, seed, split, tasks)
        self.steps = max(1, min(steps, int(self._decks.sizes.max())))

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        return self._decks.batch(self._taken(step), self._taken(step + 1))

    def _taken(self, step: int) -> Array:
        number, place = divmod(step, self.steps)
        sizes = self._decks.sizes
        taken: Array = number * sizes + place * sizes // self.steps
        return taken


def auto_batch(n: int) -> int:
    """Rows in a step: at least sixteen steps for a pass over n rows, with 16 to 256 rows each."""
    return min(256, max(16, n // 16))


def feed_for(
    dataset: Dataset, training: Any, seed: int, tasks: Collection[str] | None = None
) -> Feed:
    """The training feed that ``batch``, ``mixing`` and ``temperature`` of the settings ask for."""
    mixing = training.mixing
    if mixing == "proportional":
        rows = len(_rows(dataset, "train", tasks))
        batch = auto_batch(rows) if training.batch == "auto" else int(training.batch)
        return Rows(dataset, batch=batch, seed=seed, tasks=tasks)
    counts = dataset.counts("train")
    labels = sum(counts[name] for name in (counts if tasks is None else tasks))
    batch = auto_batch(labels) if training.batch == "auto" else int(training.batch)
    return ByTask(
        dataset,
        batch=batch,
        seed=seed,
        mixing=mixing,
        temperature=training.temperature,
        tasks=tasks,
    )
