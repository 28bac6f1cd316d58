"""Statistics of a model on its own task's rows: collected in one pass, and kept where asked.

What is found is a tensor by name for each model, so that it is read like a checkpoint, a block at a
time. On a bench with a cache it is a file named by a hash of the weights, the rows and the
statistic: whichever merger asks again reads it.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from plait.merging.bench import Bench
from plait.merging.pool import Array, Pool
from plait.weights.checkpoints import open_checkpoint
from plait.weights.sites import Site
from plait.weights.sources import Arrays, Source
from plait.weights.states import write_state


@dataclass(frozen=True, kw_only=True)
class Statistic(ABC):
    """What is to be known of a network on rows of a task.

    At most ``rows`` of them, chosen by ``seed``, ``size`` at a time.
    """

    name: ClassVar[str]
    rows: int = 256
    size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rows", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @abstractmethod
    def of(self, bench: Bench, task: str) -> Mapping[str, Array]:
        """The statistic of the bench's network as it stands, by name of the tensor."""


def gather(
    statistic: Statistic, bench: Bench, pool: Pool, models: Sequence[str | None] | None = None
) -> dict[str, Source]:
    """The statistic of each model on its own task, by the model's name.

    With ``models`` None given for a task, of the base in its place. The bench is left with the
    weights of the last one.
    """
    found: dict[str, Source] = {}
    whose = pool.names if models is None else models
    for task, model in zip(pool.names, whose, strict=True):
        bench.load(pool, model)
        found[task] = _kept(statistic, bench, task)
    return found


def _kept(statistic: Statistic, bench: Bench, task: str) -> Source:
    if bench.cache is None:
        return Arrays(statistic.of(bench, task))
    words = "\x00".join((repr(statistic), bench.fingerprint, task, bench.digest()))
    digest = hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    path = bench.cache / f"{statistic.name}-{digest}.safetensors"
    if not path.is_file():
        bench.cache.mkdir(parents=True, exist_ok=True)
        write_state(path, statistic.of(bench, task))
    return open_checkpoint(path)


def stacked(found: Mapping[str, Source], site: Site, start: int, stop: int) -> Array:
    """Values [M, n] of every model's statistic at a tensor, in the type its sums are formed in."""
    values = np.empty((len(found), stop - start), site.working)
    for row, source in zip(values, found.values(), strict=True):
        source.read(site.name, start, stop, row)
    return values
