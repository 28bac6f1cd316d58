"""The pool: a base checkpoint and the models made from it, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from plait.weights.kinds import STORED, WORDS
from plait.weights.sites import Site
from plait.weights.sources import Source, State, as_source

Array = np.ndarray[Any, Any]


class PoolError(ValueError):
    """Models that cannot be merged; the message lists every problem found."""


class Pool:
    """The models of a merge by name, in the given order, and their common base if there is one.

    A model is a :class:`~plait.weights.sources.Source` or a mapping from names to arrays. Raises
    :class:`PoolError` for models that differ in names, shapes or types of tensors (unless they are
    the same tensors), listing all of it at once; nothing but heads is read from files. NaN and
    infinite values are refused: here where a model is in memory, else when they are read.
    """

    def __init__(
        self,
        models: Mapping[str, Source | State],
        base: Source | State | None = None,
        *,
        allow_nonfinite: bool = False,
    ) -> None:
        if not models:
            raise PoolError("a merge needs at least one model")
        self.models: dict[str, Any] = dict(models)  # as they were given
        self.base: Any = base
        self.allow_nonfinite = allow_nonfinite
        self._base = None if base is None else as_source(base)
        self._sources = {name: as_source(model) for name, model in models.items()}
        problems = [*self._mismatches(), *self._nonfinite()]
        if problems:
            raise PoolError("cannot merge: " + "; ".join(problems))
        self.sites = tuple(self._tied())

    def __len__(self) -> int:
        return len(self.models)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models."""
        return tuple(self.models)

    @property
    def working(self) -> np.dtype[Any]:
        """The widest type that any tensor's sums are formed in."""
        return np.dtype(max((s.working for s in self.sites if s.floating), default=np.float32))

    @property
    def layers(self) -> int:
        """The number of repeated blocks, as the names of the tensors count them."""
        return 1 + max((site.depth for site in self.sites if site.depth is not None), default=-1)

    def only(self, sites: tuple[Site, ...]) -> Pool:
        """The same models, seen at some of the sites."""
        part = object.__new__(Pool)
        part.__dict__ = {**self.__dict__, "sites": sites}
        return part

    def alone(self, model: str) -> Pool:
        """One of the models, with the same base."""
        return self.among(model)

    def among(self, *models: str) -> Pool:
        """Some of the models, in this order, with the same base."""
        part = object.__new__(Pool)
        mine = {"models": {name: self.models[name] for name in models}}
        sources = {"_sources": {name: self._sources[name] for name in models}}
        part.__dict__ = {**self.__dict__, **mine, **sources}
        return part

    def origin(self, site: Site, start: int = 0, stop: int | None = None) -> Array:
        """Stored values [n] of the base; of the first model where there is no base."""
        stop = site.size if stop is None else stop
        return self._reference[1].stored(site.name, start, stop)

    def read_origin(self, site: Site, start: int, stop: int, out: Array) -> None:
        """Write values of :meth:`origin` into ``out``, in the working type."""
        self._reference[1].read(site.name, start, stop, out)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of the base's tensor of that name (the first model's), if there is one."""
        site = self._reference[1].names.get(name)
        return None if site is None else site.shape

    def block(
        self, site: Site, start: int, stop: int, *, against_base: bool, check: bool = True
    ) -> tuple[Array, Array | None]:
        """The models' values [M, n] in the working type, and the base's [n] with ``against_base``.

        Then the models' are differences to the base's. With ``check``, NaN and
        infinite values stop the merge, the tensor and the model named.
        """
        base = None
        partial = any(source.partial for source in self._sources.values())
        if self._base is not None and (against_base or partial):
            base = np.empty(stop - start, site.working)
            self._base.read(site.name, start, stop, base)
            if check:
                self._finite(base, "the base", site)
        values = np.empty((len(self), stop - start), site.working)
        for row, (name, source) in zip(values, self._sources.items(), strict=True):
            if site.name not in source.names:  # untouched by a partial model
                row[...] = 0 if against_base else base
                continue
            source.read(site.name, start, stop, row)
            relative = source.relative(site.name)
            if base is not None and relative != against_base:
                (np.subtract if against_base else np.add)(row, base, out=row)
            if check:
                self._finite(row, repr(name), site)
        return values, base if against_base else None

    def _finite(self, values: Array, owner: str, site: Site) -> None:
        if self.allow_nonfinite or finite(values):
            return
        raise PoolError(
            f"cannot merge: {site.name!r} of {owner} has NaN or infinite values; leave that model "
            "out, or allow them where you know why they are there"
        )

    @property
    def _reference(self) -> tuple[str, Source]:
        if self._base is not None:
            return "the base", self._base
        name, source = next(iter(self._sources.items()))
        return repr(name), source

    def _all(self) -> Iterator[tuple[str, Source]]:
        if self._base is not None:
            yield "the base", self._base
        for name, source in self._sources.items():
            yield repr(name), source

    def _mismatches(self) -> Iterator[str]:
        first, reference = self._reference
        if reference.partial and self._base is not None:
            yield "the base is a LoRA adapter; name the model it was made from"
            return
        for site in reference.sites.values():
            if site.kind not in STORED:
                kind = WORDS.get(site.kind, site.kind)
                yield f"{site.name!r} of {first} is {kind}, which is not merged; convert it first"
        for owner, source in self._all():
            if source.partial and self._base is None:
                yield f"{owner} holds differences to a base, and there is no base"
                continue
            missing = [name for name in reference.names if name not in source.names]
            extra = [name for name in source.names if name not in reference.names]
            if missing and not source.partial:
                yield f"{owner} lacks {_some(missing)} of {first}"
            if extra:
                yield f"{owner} has {_some(extra)} that {first} lacks"
            for name, site in source.names.items():
                if name not in reference.names:
                    continue
                wanted = reference.names[name]
                if site.shape != wanted.shape:
                    yield (
                        f"{name!r} is {list(site.shape)} in {owner} "
                        f"and {list(wanted.shape)} in {first}"
                    )
                elif site.kind != wanted.kind and not source.relative(name):
                    mine, theirs = WORDS[site.kind], WORDS[wanted.kind]
                    yield f"{name!r} is {mine} in {owner} and {theirs} in {first}"

    def _tied(self) -> Iterator[Site]:
        """The sites of the reference; a name that some model does not tie is a site of its own."""
        for site in self._reference[1].sites.values():
            agreed = tuple(
                alias
                for alias in site.aliases
                if all(
                    alias in source.names[site.name].aliases
                    for _, source in self._all()
                    if site.name in source.names
                )
            )
            yield replace(site, aliases=agreed)
            for alias in site.aliases:
                if alias not in agreed:
                    yield replace(site, name=alias, aliases=())

    def _nonfinite(self) -> Iterator[str]:
        if not self.allow_nonfinite:
            for owner, source in self._all():
                for name in source.nonfinite():
                    yield f"{name!r} of {owner} has NaN or infinite values"


def finite(values: Array) -> bool:
    """Whether all values are finite; one inner product tells where it is finite itself."""
    flat = values.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.dot(flat, flat)) or np.isfinite(flat).all())


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
