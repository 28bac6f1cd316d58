"""Pipelines: edits, coefficients, one combination, finishing touches, at every site of a pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from plait.merging.engine import Engine
from plait.merging.have import Have
from plait.merging.overlays import Served, keep, layouts
from plait.merging.pool import Array, Pool
from plait.merging.results import Merged, stored, write
from plait.merging.stage import Block, Coefficients, Combine, Edit, Finish, Overlay, Stage
from plait.weights.sinks import Memory, Sink
from plait.weights.sites import Site
from plait.weights.sources import State


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

    ``scale`` is one factor, one per model by name, or :class:`Free`; ``coefficients`` are stages
    that find more factors in the data. With ``against_base`` False the models' tensors themselves
    are combined and no base is needed. An ``overlay`` is what every task keeps beside the result.
    Stages must differ from one another: what they find goes by the stage.
    """

    combine: Combine
    scale: float | Mapping[str, float] | Free = 1.0
    edits: tuple[Edit, ...] = ()
    coefficients: tuple[Coefficients, ...] = ()
    finish: tuple[Finish, ...] = ()
    overlay: Overlay | None = None
    against_base: bool = True

    def __post_init__(self) -> None:
        if len(set(self.stages)) < len(self.stages):
            raise ValueError("a stage stands twice in one pipeline; give the two other settings")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages in the order in which they work."""
        last = () if self.overlay is None else (self.overlay,)
        return (*self.edits, *self.coefficients, self.combine, *self.finish, *last)

    def run(self, pool: Pool, have: Have, sink: Sink | None = None, workers: int = 1) -> Merged:
        """The merged tensors, their free coefficient chosen on validation where that is there."""
        sink = Memory() if sink is None else sink
        if not isinstance(self.scale, Free):
            return self._merge(pool, 1.0, sink, workers, {})
        if have.validation is None:
            found = self.scale.fallback
            evidence: dict[str, Any] = {"scale": found, "chosen": "the default, without validation"}
            return self._merge(pool, found, sink, workers, evidence)
        at = self._scaled(pool, workers)
        losses = {factor: float(have.validation(at(factor))) for factor in self.scale.grid}
        usable = {factor: loss for factor, loss in losses.items() if np.isfinite(loss)}
        if not usable:
            raise ValueError("no coefficient of the search gave a finite validation loss")
        best = min(usable, key=lambda factor: (usable[factor], factor))
        evidence = {
            "scale": best,
            "chosen": "on validation",
            "search": [[factor, usable.get(factor)] for factor in losses],
        }
        return self._merge(pool, best, sink, workers, evidence)

    def _merge(
        self, pool: Pool, factor: float, sink: Sink, workers: int, evidence: Mapping[str, Any]
    ) -> Merged:
        place = self.placing(pool, factor, sink, workers)
        if self.overlay is None:
            write(pool, sink, place, workers=workers)
            return Merged(tensors=sink.tensors, evidence=evidence)
        write(pool, sink, place, tasks=layouts(pool.names, self.overlay), workers=workers)
        tasks = {name: Served(pool, self.overlay, sink, name) for name in pool.names}
        return Merged(tensors=sink.tensors, evidence=evidence, tasks=tasks)

    def placing(
        self, pool: Pool, factor: float, sink: Sink, workers: int
    ) -> Callable[[Site], None]:
        """What merges one site of the pool into the sink; the passes it needs first are done."""
        engine = self._engine(pool, factor, workers)
        engine.settle()

        def place(site: Site) -> None:
            for block in engine.blocks(site):
                sink.write(site, block.start, _rounded(pool, block))
                if self.overlay is not None:
                    keep(pool.names, self.overlay, block, sink)

        return place

    def _engine(self, pool: Pool, factor: float, workers: int) -> Engine:
        return Engine(
            pool,
            self.stages,
            factor * self._factors(pool),
            against_base=self.against_base,
            workers=workers,
        )

    def _factors(self, pool: Pool) -> Array:
        match self.scale:
            case Free():
                return np.ones(len(pool))
            case Mapping():
                strange = sorted(set(self.scale) ^ set(pool.names))
                if strange:
                    raise ValueError(f"coefficients and models differ in: {', '.join(strange)}")
                return np.array([self.scale[name] for name in pool.names], np.float64)
        return np.full(len(pool), float(self.scale))

    def _scaled(self, pool: Pool, workers: int) -> Callable[[float], State]:
        """The merged tensors at a common factor; a linear combination is formed only once."""
        if not self.combine.linear or self.finish:
            return lambda factor: self._merge(pool, factor, Memory(), workers, {}).tensors
        engine = self._engine(pool, 1.0, workers)
        engine.settle()
        nothing = np.empty(0)
        directions = {
            site: [replace(block, deltas=nothing) for block in engine.blocks(site)]
            for site in pool.sites
            if site.floating
        }

        def at(factor: float) -> State:
            sink = Memory()

            def place(site: Site) -> None:
                for block in directions[site]:
                    scaled = replace(block, delta=site.working.type(factor) * block.delta)
                    sink.write(site, block.start, _rounded(pool, scaled))

            write(pool, sink, place)
            return sink.tensors

        return at


def place_groups(
    pool: Pool, groups: Iterable[tuple[Pipeline, Sequence[Site]]], sink: Sink, workers: int
) -> None:
    """Merge groups of a pool's tensors, each by its own pipeline, all into one sink.

    Coefficients left free take their default.
    """
    placing: dict[str, Callable[[Site], None]] = {}
    for line, sites in groups:
        factor = line.scale.fallback if isinstance(line.scale, Free) else 1.0
        place = line.placing(pool.only(tuple(sites)), factor, sink, workers)
        placing |= dict.fromkeys((site.name for site in sites), place)
    write(pool, sink, lambda site: placing[site.name](site), workers=workers)


def _rounded(pool: Pool, block: Block) -> Array:
    """The block's merged values as they are stored."""
    values = block.delta.reshape(-1)
    if block.base is not None:
        values = block.base + values
    return stored(values, block.site, allow_nonfinite=pool.allow_nonfinite)
