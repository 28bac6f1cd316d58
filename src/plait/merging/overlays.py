"""What tasks keep of their own beside a merged model, stored and served.

What is kept for a site goes by ``site.key``; masks are bits, eight to a byte, in the order of the
flat tensor. What all tasks share, the merged delta, is stored in the site's own type under the task
name ``""``: as the difference of the rounded result to the base it would be less exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from plait.merging.pool import Array, Pool
from plait.merging.stage import Block, Overlay
from plait.weights.kinds import narrow, shown, widen
from plait.weights.sinks import Laid, Sink, Tasks
from plait.weights.sites import Site
from plait.weights.sources import State

DELTA = "delta"


def layouts(names: Sequence[str], overlay: Overlay) -> Tasks:
    """What the tasks of these names keep for a site, and what they share."""

    def shared(site: Site) -> Laid:
        return {f"{site.name}.{DELTA}": (site.kind, site.shape)} if _kept(site) else {}

    def own(site: Site) -> Laid:
        laid = overlay.layout(site) if _kept(site) else {}
        return {
            f"{site.name}.{key}": ("U8", (_bytes(shape),)) if kind == "BOOL" else (kind, shape)
            for key, (kind, shape) in laid.items()
        }

    common: Tasks = {"": shared} if overlay.shares else {}
    return {**common, **dict.fromkeys(names, own)}


def keep(names: Sequence[str], overlay: Overlay, block: Block, sink: Sink) -> None:
    """Hand what is kept of a block to the sink."""
    site, start = block.site, block.start
    if overlay.shares:
        delta = narrow(block.delta.reshape(-1), site.kind)
        sink.keep("", f"{site.name}.{DELTA}", start, delta)
    for key, (kind, _) in overlay.layout(site).items():
        for task, row in zip(names, block.kept[key], strict=True):
            if kind == "BOOL":  # blocks begin at whole bytes
                sink.keep(task, f"{site.name}.{key}", start // 8, np.packbits(row))
            elif start == 0:
                sink.keep(task, f"{site.name}.{key}", 0, narrow(row.reshape(-1), kind))


class Served(Mapping[str, Array]):
    """The tensors of one task, made from the base, the merged delta and what the task keeps."""

    def __init__(self, pool: Pool, overlay: Overlay, sink: Sink, task: str) -> None:
        self._pool = pool
        self._overlay = overlay
        self._sites = {n: site for site in pool.sites for n in (site.name, *site.aliases)}
        self._shared: State = sink.kept("") if overlay.shares else {}
        self._own = sink.kept(task)

    def __getitem__(self, name: str) -> Array:
        site = self._sites[name]
        origin = self._pool.origin(site)
        if not _kept(site):
            return shown(origin, site.kind).reshape(site.shape).copy()
        base = np.empty(site.size, site.working)
        widen(origin, site.kind, base)
        delta = np.zeros(site.shape, site.working)
        if self._overlay.shares:
            delta += self._shared[f"{site.name}.{DELTA}"]
        kept = {}
        for key, (kind, shape) in self._overlay.layout(site).items():
            values = self._own[f"{site.name}.{key}"]
            if kind == "BOOL":
                values = np.unpackbits(values, count=site.size).astype(bool).reshape(shape)
            kept[key] = values
        own = self._overlay.serve(delta, kept)
        rounded = narrow(base + own.reshape(-1), site.kind)
        return shown(rounded, site.kind).reshape(site.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)


def _kept(site: Site) -> bool:
    return site.floating and site.size > 0


def _bytes(shape: tuple[int, ...]) -> int:
    return -(-int(np.prod(shape)) // 8)
