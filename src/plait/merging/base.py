"""Merging: several checkpoints become one.

Most papers are a *pipeline* over the models' deltas at every site (a named tensor),

    θ = θ₀ + finish(c · combine(edit(δ₁, …, δ_M))),   δ_m = θ_m − θ₀,

so a :class:`Merger` usually only returns its :class:`Pipeline`. A coefficient c may be left *free*:
it is then filled by a search on validation. Everything here works on numpy arrays and loads no
torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from plait.merging.pool import Array, Pool, Site, State
from plait.method import Method, Need


@dataclass(frozen=True, kw_only=True)
class Have:
    """What there is beside the checkpoints.

    ``validation`` takes a merged state and returns its loss on validation rows, lower is better.
    """

    validation: Callable[[State], float] | None = None

    def owned(self, pool: Pool) -> frozenset[Need]:
        """The needs that are met."""
        met = {Need.BASE: pool.base is not None, Need.VALIDATION: self.validation is not None}
        return frozenset(need for need, there in met.items() if there)


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The merged tensors, and what was found on the way (the coefficient, how it was chosen)."""

    tensors: State
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a stage works: the site, the models' names and the deltas before any edit."""

    site: Site
    models: tuple[str, ...]
    original: Array


class Edit(ABC):
    """A stage that changes the models' deltas at a site: [M, *s] → [M, *s]."""

    @abstractmethod
    def __call__(self, deltas: Array, ctx: Context) -> Array: ...


class Combine(ABC):
    """The stage that makes one delta of M: (deltas [M, *s], coefficients [M]) → [*s].

    ``linear`` ones scale with the coefficients, so that a search over one common factor combines
    only once.
    """

    linear: ClassVar[bool]

    @abstractmethod
    def __call__(self, deltas: Array, coefficients: Array, ctx: Context) -> Array: ...


class Finish(ABC):
    """A stage that changes the combined delta at a site: [*s] → [*s]."""

    @abstractmethod
    def __call__(self, delta: Array, ctx: Context) -> Array: ...


@dataclass(frozen=True, kw_only=True)
class Free:
    """One factor for all models and sites, to be chosen among ``grid``; else ``fallback``."""

    grid: tuple[float, ...]
    fallback: float

    def __post_init__(self) -> None:
        if not self.grid:
            raise ValueError("a free coefficient needs a grid of at least one value")


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Edits, then coefficients, then one combination, then finishing touches, at every site.

    ``scale`` is one factor, one per model by name, or :class:`Free`. With ``against_base`` False
    the models' tensors themselves are combined and no base is needed.
    """

    combine: Combine
    scale: float | Mapping[str, float] | Free
    edits: tuple[Edit, ...] = ()
    finish: tuple[Finish, ...] = ()
    against_base: bool = True

    def run(self, pool: Pool, have: Have) -> Merged:
        """The merged tensors, their free coefficient chosen on validation where that is there."""
        if not isinstance(self.scale, Free):
            return Merged(tensors=self._merge(pool, self._coefficients(pool)))
        merge = self._scaled(pool)
        if have.validation is None:
            found = self.scale.fallback
            evidence: dict[str, Any] = {"scale": found, "chosen": "the default, without validation"}
            return Merged(tensors=merge(found), evidence=evidence)
        losses = {factor: float(have.validation(merge(factor))) for factor in self.scale.grid}
        usable = {factor: loss for factor, loss in losses.items() if np.isfinite(loss)}
        if not usable:
            raise ValueError("no coefficient of the search gave a finite validation loss")
        best = min(usable, key=lambda factor: (usable[factor], factor))
        evidence = {
            "scale": best,
            "chosen": "on validation",
            "search": [[factor, usable.get(factor)] for factor in losses],
        }
        return Merged(tensors=merge(best), evidence=evidence)

    def _coefficients(self, pool: Pool) -> Array:
        if isinstance(self.scale, Mapping):
            strange = sorted(set(self.scale) ^ set(pool.names))
            if strange:
                raise ValueError(f"coefficients and models differ in: {', '.join(strange)}")
            return np.array([self.scale[name] for name in pool.names])
        factor = 1.0 if isinstance(self.scale, Free) else self.scale
        return np.full(len(pool), factor)

    def _merge(self, pool: Pool, coefficients: Array) -> dict[str, Array]:
        return {
            site.name: self._place(pool, site, self._delta(pool, site, coefficients))
            for site in pool.sites
        }

    def _scaled(self, pool: Pool) -> Callable[[float], dict[str, Array]]:
        ones = self._coefficients(pool)
        if not self.combine.linear or self.finish:
            return lambda factor: self._merge(pool, factor * ones)
        directions = {site.name: self._delta(pool, site, ones) for site in pool.sites}

        def at(factor: float) -> dict[str, Array]:
            merged = {}
            for site in pool.sites:
                delta = directions[site.name]
                scaled = None if delta is None else site.working.type(factor) * delta
                merged[site.name] = self._place(pool, site, scaled)
            return merged

        return at

    def _delta(self, pool: Pool, site: Site, coefficients: Array) -> Array | None:
        if not site.floating:
            return None
        deltas = pool.stacked(site, against_base=self.against_base)
        ctx = Context(site=site, models=pool.names, original=deltas)
        for edit in self.edits:
            deltas = edit(deltas, ctx)
        delta = self.combine(deltas, coefficients.astype(site.working), ctx)
        for step in self.finish:
            delta = step(delta, ctx)
        return delta

    def _place(self, pool: Pool, site: Site, delta: Array | None) -> Array:
        origin = pool.origin(site)
        if delta is None:  # counters and masks have no average
            return origin.copy()
        if self.against_base:
            delta = origin.astype(site.working, copy=False) + delta
        return delta.astype(site.dtype, copy=False)


class Merger(Method):
    """A way from several checkpoints to one.

    A paper that is a pipeline defines :meth:`pipeline`; any other defines :meth:`merge`.
    """

    def pipeline(self, pool: Pool) -> Pipeline:
        """The stages for this pool."""
        raise NotImplementedError(f"{type(self).__name__} defines neither pipeline nor merge")

    def merge(self, pool: Pool, have: Have | None = None) -> Merged:
        """Merge the models of a pool.

        Raises ``ValueError`` naming what is needed and not there.
        """
        have = have or Have()
        missing = self.card.needs - have.owned(pool)
        if missing:
            needs = " and ".join(sorted(need.words for need in missing))
            raise ValueError(f"{self.card.name} needs {needs}")
        return self.pipeline(pool).run(pool, have)
