"""Small pools of numpy tensors, and what the properties of mergers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from plait.merging.base import Have, Merged, Merger
from plait.merging.have import SEEING
from plait.merging.pool import Array, Pool
from plait.merging.route import Route
from plait.method import Need
from plait.testing.benches import toy_bench
from plait.testing.laws import Subject, refusal
from plait.weights.checkpoints import open_checkpoint
from plait.weights.folders import Folder
from plait.weights.sources import State
from plait.weights.states import write_state


def base_state(dtype: str = "float64", seed: int = 0) -> dict[str, Array]:
    """A checkpoint with a matrix, a vector, a number, an empty tensor and a counter."""
    draw = np.random.default_rng(seed)
    state: dict[str, Array] = {
        "trunk.weight": draw.normal(size=(5, 3)).astype(dtype),
        "trunk.bias": draw.normal(size=5).astype(dtype),
        "trunk.scale": np.asarray(draw.normal(), dtype),
        "trunk.empty": np.zeros((0, 3), dtype),
        "trunk.steps": np.asarray(7 + seed, "int64"),
    }
    return state


def toy_pool(models: int = 3, *, dtype: str = "float64", base: bool = True, seed: int = 0) -> Pool:
    """A base and models that each lie a small random step away from it; counters differ."""
    start = base_state(dtype, seed)
    found: dict[str, State] = {}
    for number in range(models):
        draw = np.random.default_rng(seed + 100 + number)
        found[f"m{number}"] = {
            name: (value + 0.3 * draw.normal(size=value.shape)).astype(dtype)
            if value.dtype.kind == "f"
            else value + number + 1
            for name, value in start.items()
        }
    return Pool(found, start if base else None)


def toy(subject: Subject, models: int = 3, **settings: Any) -> Pool:
    """A toy pool of as many models as the method takes."""
    return toy_pool(subject.cls.count or models, **settings)


def copies(subject: Subject, state: State) -> dict[str, State]:
    """Equal models, as many as the method takes."""
    return {name: dict(state) for name in ("a", "b", "c")[: subject.cls.count]}


def any_count(subject: Subject) -> bool:
    """Whether one model can be merged."""
    return subject.cls.count in (None, 1)


def made(subject: Subject, **settings: Any) -> Merger:
    """The method with these settings, and those of its first example where it looks at data.

    Validation rows count as data. They keep a toy small.
    """
    looks = seeing(subject) or Need.VALIDATION in subject.cls.card.needs
    few = subject.cls.examples()[0] if looks else {}
    method: Merger = subject.make(**{**few, **settings})
    return method


def merge(subject: Subject, pool: Pool, have: Have | None = None, **settings: Any) -> Merged:
    return made(subject, **settings).merge(pool, have or have_for(subject, pool))


def have_for(subject: Subject, pool: Pool, **more: Any) -> Have:
    """What the method looks at, for the tasks of a pool.

    Where it cannot do without validation, its loss is how far a state is from the models' mean.
    """
    looks = seeing(subject)
    if looks:
        more = {"bench": toy_bench(pool, subject.cls.losses), **more}
    if Need.VALIDATION in subject.cls.card.needs:
        held = toy_bench(pool, subject.cls.losses) if looks else None
        more = {"validation": far_from(pool), "held": held, **more}
    return Have(**more)


def far_from(pool: Pool) -> Callable[[State], float]:
    """The squared distance of a state to the mean of a pool's models."""
    aims = {
        site.name: pool.block(site, 0, site.size, against_base=False)[0].mean(0)
        for site in pool.sites
        if site.floating and site.size
    }

    def far(state: State) -> float:
        return sum(float(np.square(np.ravel(state[n]) - aim).sum()) for n, aim in aims.items())

    return far


def seeing(subject: Subject) -> bool:
    """Whether it looks at data."""
    return bool(subject.cls.card.needs & SEEING)


def blind(subject: Subject) -> bool:
    """Whether it looks at weights only, so that all their symmetries are its own."""
    return not seeing(subject)


def keeps(subject: Subject) -> bool:
    """Whether tasks keep tensors of their own."""
    return Need.TASK_ID in subject.cls.card.needs and not issubclass(subject.cls, Route)


@contextmanager
def in_files(pool: Pool, shard: int) -> Iterator[tuple[Pool, Folder]]:
    """The pool stored in files, and a folder to merge it into."""
    with TemporaryDirectory() as place:
        for name, state in (("base", pool.base), *pool.models.items()):
            write_state(Path(place, f"{name}.safetensors"), state)
        opened = {n: open_checkpoint(Path(place, f"{n}.safetensors")) for n in pool.names}
        base = open_checkpoint(Path(place, "base.safetensors"))
        yield Pool(opened, base), Folder(Path(place, "merged"), "the toy", shard=shard)


def difference(state: State, base: State) -> Array:
    """All floating tensors less the base's, as one vector."""
    names = [name for name, value in base.items() if value.dtype.kind == "f"]
    return np.concatenate([np.ravel(state[name] - base[name]) for name in names])


def gap_of(one: State, two: State) -> tuple[float, str]:
    worst = (0.0, "")
    for name, value in one.items():
        other = two[name]
        if value.size:
            gap = float(np.max(np.abs(value.astype("float64") - other.astype("float64"))))
            worst = max(worst, (gap, name))
    return worst


def close(one: State, two: State, tolerance: float) -> None:
    assert one.keys() == two.keys(), f"tensors differ: {sorted(set(one) ^ set(two))}"
    gap, name = gap_of(one, two)
    assert gap <= tolerance, f"{name!r} differs by {gap:.3g}, {tolerance:g} is allowed"


def refused(subject: Subject, models: Mapping[str, State], base: State | None) -> str:
    return refusal(lambda: merge(subject, Pool(models, base)))


def upcast(state: State) -> State:
    return {n: v.astype("float64") if v.dtype.kind == "f" else v for n, v in state.items()}


def times(state: State, size: float) -> State:
    return {n: v * size if v.dtype.kind == "f" else v for n, v in state.items()}
