"""Sinks: where merged tensors go, block by block and from several threads at once.

A sink is asked for its *shards*, some of the sites at a time; when the next shard is asked for,
every block of the one before has been written. Beside the model's tensors it takes what single
tasks keep of their own, and under the task name ``""`` what they share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from plait.weights.kinds import STORED, shown
from plait.weights.sites import Site
from plait.weights.sources import Array, State

Laid = Mapping[str, tuple[str, tuple[int, ...]]]  # type and shape by name
Layout = Callable[[Site], Laid]  # what is kept for a site
Tasks = Mapping[str, Layout]


class Sink(ABC):
    """Where merged tensors go."""

    @abstractmethod
    def shards(self, sites: Sequence[Site], tasks: Tasks) -> Iterator[Sequence[Site]]:
        """The sites that are still to be written, a shard at a time.

        ``tasks`` says for each task what it will keep for a site: types and shapes by name.
        """

    @abstractmethod
    def write(self, site: Site, start: int, stored: Array) -> None:
        """Values [n] of a site from its flat place ``start`` on, as its type stores them."""

    @abstractmethod
    def keep(self, task: str, name: str, start: int, values: Array) -> None:
        """Values [n] that a task keeps under a name, from the flat place ``start`` on."""

    @property
    @abstractmethod
    def tensors(self) -> State:
        """The model's tensors by name, once all shards are written; bfloat16 as float32."""

    @abstractmethod
    def kept(self, task: str) -> State:
        """What a task keeps, by name."""


class Memory(Sink):
    """Arrays in memory."""

    def __init__(self) -> None:
        self._flat: dict[Site, Array] = {}
        self._kept: dict[str, dict[str, tuple[str, Array]]] = {}

    def shards(self, sites: Sequence[Site], tasks: Tasks) -> Iterator[Sequence[Site]]:
        """All sites at once."""
        self._flat = {site: np.empty(site.size, STORED[site.kind]) for site in sites}
        self._kept = {
            task: {
                name: (kind, np.empty(shape, STORED[kind]))
                for site in sites
                for name, (kind, shape) in layout(site).items()
            }
            for task, layout in tasks.items()
        }
        yield sites

    def write(self, site: Site, start: int, stored: Array) -> None:
        """Copy values into the site's array."""
        self._flat[site][start : start + stored.size] = stored

    def keep(self, task: str, name: str, start: int, values: Array) -> None:
        """Copy values into the array of a task's name."""
        self._kept[task][name][1].reshape(-1)[start : start + values.size] = values

    @property
    def tensors(self) -> dict[str, Array]:
        """The arrays by name; tied names share one."""
        return {
            name: shown(flat, site.kind).reshape(site.shape)
            for site, flat in self._flat.items()
            for name in (site.name, *site.aliases)
        }

    def kept(self, task: str) -> dict[str, Array]:
        """The arrays a task keeps."""
        return {name: shown(flat, kind) for name, (kind, flat) in self._kept[task].items()}
