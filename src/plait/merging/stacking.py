"""Layer stacking (passthrough): blocks of one or several models on top of one another, as they are.

A *slice* is (model, start, stop): blocks start, …, stop − 1 of that model. The slices' blocks are
numbered through in the order given; all else (embeddings, norm, head) is taken from the model
``outside``. Nothing is averaged: every tensor is a copy, bit for bit.

>>> import numpy as np
>>> from plait.weights.sinks import Memory
>>> model = {f"layers.{n}.w": np.full(1, float(n)) for n in range(3)} | {"head": np.ones(1)}
>>> sink = Memory()
>>> slices = [("a", 0, 2), ("a", 1, 3)]
>>> stack({"a": model}, slices, {"num_hidden_layers": 3}, sink)
{'num_hidden_layers': 4}
>>> {name: float(value[0]) for name, value in sink.tensors.items()}
{'head': 1.0, 'layers.0.w': 0.0, 'layers.1.w': 1.0, 'layers.2.w': 1.0, 'layers.3.w': 2.0}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from plait.merging.engine import BLOCK, ordered
from plait.merging.pool import Pool, PoolError
from plait.merging.results import stored
from plait.weights.sinks import Sink
from plait.weights.sites import Site
from plait.weights.sources import Source, State

DEPTHS = ("num_hidden_layers", "n_layer", "num_layers")  # as configurations name it
Slice = tuple[str, int, int]


def stack(
    models: Mapping[str, Source | State],
    slices: Sequence[Slice],
    config: Mapping[str, Any],
    sink: Sink,
    *,
    outside: str | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Write the stacked model into a sink; its configuration, from the models' ``config``.

    Models may differ in depth. ``outside`` is the first slice's model where it is not given.
    Raises :class:`PoolError` for slices that are not there, and for blocks that differ in names,
    shapes or types of their tensors.
    """
    if not slices:
        raise PoolError("a stack needs at least one slice")
    pools = {name: Pool({name: model}) for name, model in models.items()}
    outside = slices[0][0] if outside is None else outside
    for name, start, stop in (*slices, (outside, 0, 1)):
        if name not in pools:
            raise PoolError(f"there is no model {name!r}; there are {', '.join(pools)}")
        if not 0 <= start < stop <= pools[name].layers:
            raise PoolError(f"{name!r} has blocks 0 to {pools[name].layers - 1}, not all of "
                            f"{start} to {stop - 1}")  # fmt: skip
    blocks = [(name, depth) for name, start, stop in slices for depth in range(start, stop)]
    rest = ((site, (pools[outside], site)) for site in pools[outside].sites if site.depth is None)
    laid = dict([*rest, *_laid(pools, blocks)])
    stacked = _config(config, blocks)

    def place(site: Site) -> None:
        pool, source = laid[site]
        for start in range(0, site.size, BLOCK):
            stop = min(start + BLOCK, site.size)
            if site.floating:  # read as numbers, so that NaN and infinite values are found
                values, _ = pool.block(source, start, stop, against_base=False)
                sink.write(site, start, stored(values[0], site))
            else:
                sink.write(site, start, pool.origin(source, start, stop))

    for shard in sink.shards(list(laid), {}):
        for _ in ordered(place, shard, workers):
            pass
    return stacked


def _laid(
    pools: Mapping[str, Pool], blocks: Sequence[tuple[str, int]]
) -> Iterator[tuple[Site, tuple[Pool, Site]]]:
    """The sites of all blocks under their new numbers, each with where it comes from."""
    form: dict[str, str] = {}
    for number, (name, depth) in enumerate(blocks):
        found = {}
        for site in pools[name].sites:
            if site.depth == depth:
                new = replace(site, name=_numbered(site.name, number), aliases=())
                found[_numbered(site.name, 0)] = site.words
                yield new, (pools[name], site)
        form = form or found
        odd = sorted(set(form.items()) ^ set(found.items()))
        if odd:
            raise PoolError(
                f"block {depth} of {name!r} is built otherwise than block {blocks[0][1]} of "
                f"{blocks[0][0]!r}: {odd[0][0]!r} is {odd[0][1]} in one of them"
            )


def _numbered(name: str, number: int) -> str:
    """A tensor's name with another number of its block, the first in it."""
    parts = name.split(".")
    place = next(place for place, part in enumerate(parts) if part.isdecimal())
    return ".".join([*parts[:place], str(number), *parts[place + 1 :]])


def _config(config: Mapping[str, Any], blocks: Sequence[tuple[str, int]]) -> dict[str, Any]:
    key = next((key for key in DEPTHS if key in config), None)
    if key is None:
        raise PoolError(f"the configuration has none of {', '.join(DEPTHS)}")
    found = {**config, key: len(blocks)}
    if isinstance(config.get("layer_types"), list):
        kinds = config["layer_types"]
        found["layer_types"] = [kinds[depth % len(kinds)] for _, depth in blocks]
    return found
