"""The engine: takes the blocks of a pool through the stages of a pipeline.

Tensors are shared out among threads; within a tensor blocks follow one another. Whatever is added
up is added in the order of blocks and tensors, so that results do not depend on the threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from plait.merging.pool import Array, Pool
from plait.merging.stage import Block, Context, Grain, Stage
from plait.weights.sites import Site

BLOCK = 1 << 16  # values of one model in work at once, where the grain allows: fits a near cache
One = TypeVar("One")
Other = TypeVar("Other")


def ordered(work: Callable[[One], Other], items: Iterable[One], workers: int) -> Iterator[Other]:
    """The results of ``work`` in the order of the items, a few being in work or waiting."""
    if workers <= 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="merge") as pool:
        waiting: deque[Future[Other]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class Engine:
    """A pipeline's stages on a pool.

    ``coefficients`` [M] multiply whatever the stages find for the models.
    """

    def __init__(
        self,
        pool: Pool,
        stages: Sequence[Stage],
        coefficients: Array,
        *,
        against_base: bool,
        workers: int = 1,
    ) -> None:
        self.pool = pool
        self.stages = tuple(stages)
        self.coefficients = coefficients
        self.against_base = against_base
        self.workers = workers
        self.grain = max((stage.grain for stage in self.stages), default=Grain.ELEMENT)
        self._layers = pool.layers
        self._looks_back = any(stage.looks_back for stage in self.stages)
        self._whole: dict[Stage, tuple[Any, ...]] = {}
        self._local: dict[tuple[Stage, str], tuple[Any, ...]] = {}
        self._read: set[str] = set()

    def settle(self) -> None:
        """Do the passes over the whole model that stages ask for."""
        sites = [site for site in self.pool.sites if site.floating and site.size]
        for number, stage in enumerate(self.stages):
            if not stage.whole:
                continue
            for _ in range(stage.passes(self.pool.working)):
                total: Array | None = None
                fold = self._folding(number)
                for part in ordered(fold, sites, self.workers):
                    total = part if total is None else stage.join(total, part)
                if total is not None:
                    found = self._whole.get(stage, ())
                    self._whole[stage] = (*found, stage.settle(total, found))

    def blocks(self, site: Site) -> Iterator[Block]:
        """The blocks of a site after all stages."""
        yield from self._until(site, len(self.stages))

    def _folding(self, number: int) -> Callable[[Site], Array]:
        return lambda site: self._fold(site, number, self._findings(site, number))

    def _fold(self, site: Site, number: int, findings: Mapping[Stage, tuple[Any, ...]]) -> Array:
        """The total of a stage's scan over a site."""
        stage = self.stages[number]
        total: Array | None = None
        for block in self._until(site, number, findings):
            part = stage.scan(stage.view(block), self._context(stage, block, findings))
            total = part if total is None else stage.join(total, part)
        assert total is not None, "empty sites are not scanned"
        return total

    def _findings(self, site: Site, before: int) -> Mapping[Stage, tuple[Any, ...]]:
        """What the first stages have found, those that work tensor by tensor at this site."""
        findings = dict(self._whole)
        for number, stage in enumerate(self.stages[:before]):
            passes = 0 if stage.whole or not site.size else stage.passes(site.working)
            if not passes:
                continue
            place = (stage, site.name)
            if place not in self._local:
                findings[stage] = ()
                for _ in range(passes):
                    total = self._fold(site, number, findings)
                    done = findings[stage]
                    findings[stage] = (*done, stage.settle(total, done))
                self._local[place] = findings[stage]
            findings[stage] = self._local[place]
        return findings

    def _until(
        self, site: Site, before: int, findings: Mapping[Stage, tuple[Any, ...]] | None = None
    ) -> Iterator[Block]:
        """The blocks of a site after the first stages."""
        findings = self._findings(site, before) if findings is None else findings
        check = site.name not in self._read
        for start, stop in self._cuts(site):
            deltas, base = self.pool.block(
                site, start, stop, against_base=self.against_base, check=check
            )
            block = Block(
                site=site,
                start=start,
                base=base,
                original=deltas.copy() if self._looks_back else None,
                deltas=deltas,
                coefficients=self.coefficients,
            )
            for stage in self.stages[:before]:
                stage.run(block, self._context(stage, block, findings))
            yield block
        self._read.add(site.name)

    def _cuts(self, site: Site) -> Iterator[tuple[int, int]]:
        if not site.size:
            return
        step = BLOCK
        if self.grain is Grain.TENSOR:
            step = site.size
        elif self.grain is Grain.ROW:
            step = max(8, BLOCK // site.width // 8 * 8) * site.width  # masks are cut at whole bytes
        for start in range(0, site.size, step):
            yield start, min(start + step, site.size)

    def _context(
        self, stage: Stage, block: Block, findings: Mapping[Stage, tuple[Any, ...]]
    ) -> Context:
        site, grain = block.site, stage.grain
        return Context(
            site=site,
            models=self.pool.names,
            layers=self._layers,
            start=block.start,
            base=None if block.base is None else grain.shaped(block.base, site, 0),
            original=None if block.original is None else grain.shaped(block.original, site, 1),
            deltas=grain.shaped(block.deltas, site, 1),
            coefficients=block.coefficients,
            found=findings.get(stage, ()),
            findings=findings,
        )
