"""The pool: a base checkpoint and the models made from it, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

State = Mapping[str, "np.ndarray[Any, Any]"]  # tensors by name, as a checkpoint stores them
Array = np.ndarray[Any, Any]


class PoolError(ValueError):
    """Models that cannot be merged; the message lists every problem found."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """One named tensor: merged where it holds floats, copied where it holds integers or bools."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def floating(self) -> bool:
        return self.dtype.kind == "f"

    @property
    def working(self) -> np.dtype[Any]:
        """The type sums are formed in: float32 for anything smaller, rounded once at the end."""
        return np.promote_types(self.dtype, np.float32)


class Pool:
    """The models of a merge by name, in the given order, and their common base if there is one.

    Raises :class:`PoolError` for models that differ in names, shapes or types of tensors (unless
    they are the same tensors), and for NaN or infinite values, listing all of it at once.
    """

    def __init__(self, models: Mapping[str, State], base: State | None = None) -> None:
        if not models:
            raise PoolError("a merge needs at least one model")
        self.models = dict(models)
        self.base = base
        problems = [*self._mismatches(), *self._not_finite()]
        if problems:
            raise PoolError("cannot merge: " + "; ".join(problems))

    def __len__(self) -> int:
        return len(self.models)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models."""
        return tuple(self.models)

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """All tensors, in the order of the base (of the first model where there is no base)."""
        return tuple(
            Site(name=name, shape=value.shape, dtype=value.dtype)
            for name, value in self._reference[1].items()
        )

    def origin(self, site: Site) -> Array:
        """The tensor of the base; of the first model where there is no base."""
        return self._reference[1][site.name]

    def stacked(self, site: Site, *, against_base: bool) -> Array:
        """The models' tensors [M, *shape] in the working type, minus the base's if asked."""
        rows = np.stack([model[site.name] for model in self.models.values()])
        rows = rows.astype(site.working, copy=False)
        if against_base:
            rows = rows - self.origin(site).astype(site.working, copy=False)
        return rows

    @property
    def _reference(self) -> tuple[str, State]:
        if self.base is not None:
            return "the base", self.base
        name, state = next(iter(self.models.items()))
        return repr(name), state

    def _all(self) -> Iterator[tuple[str, State]]:
        if self.base is not None:
            yield "the base", self.base
        for name, state in self.models.items():
            yield repr(name), state

    def _mismatches(self) -> Iterator[str]:
        first, reference = self._reference
        for owner, state in self._all():
            missing = [name for name in reference if name not in state]
            extra = [name for name in state if name not in reference]
            if missing:
                yield f"{owner} lacks {_some(missing)} of {first}"
            if extra:
                yield f"{owner} has {_some(extra)} that {first} lacks"
            for name, value in state.items():
                if name not in reference:
                    continue
                wanted = reference[name]
                if value.shape != wanted.shape:
                    yield (
                        f"{name!r} is {list(value.shape)} in {owner} "
                        f"and {list(wanted.shape)} in {first}"
                    )
                elif value.dtype != wanted.dtype:
                    yield f"{name!r} is {value.dtype} in {owner} and {wanted.dtype} in {first}"

    def _not_finite(self) -> Iterator[str]:
        for owner, state in self._all():
            for name, value in state.items():
                if value.dtype.kind == "f" and not np.isfinite(value).all():
                    yield f"{name!r} of {owner} has NaN or infinite values"


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
