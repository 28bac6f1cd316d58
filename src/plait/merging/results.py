"""What a merge gives, and how its tensors are written whatever the method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from plait.merging.engine import BLOCK, ordered
from plait.merging.pool import Array, Pool, PoolError, finite
from plait.weights.kinds import narrow
from plait.weights.sinks import Sink, Tasks
from plait.weights.sites import Site
from plait.weights.sources import State


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a merge has made of the network on the bench beside other weights.

    It holds the merged weights, and the modules that its :class:`~plait.merging.route.Route` lays
    out, filled; ``after`` is the torch module that is to stand after it, if any, and ``around`` the
    :class:`~plait.merging.route.Chooser` to run it by.
    """

    after: Any = None
    around: Any = None


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The merged tensors, and what was found on the way (the coefficient, how it was chosen).

    Where tasks keep something of their own, ``tasks`` has each one's tensors by model name; they
    need the task of every row when the model serves. Where the network itself was changed,
    ``change`` says how; ``tensors`` are then those of a network that was not.
    """

    tensors: State
    evidence: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, State] = field(default_factory=dict)
    change: Change | None = None


def write(
    pool: Pool,
    sink: Sink,
    place: Callable[[Site], None],
    *,
    sites: Sequence[Site] | None = None,
    tasks: Tasks | None = None,
    workers: int = 1,
) -> None:
    """Have every floating site of the pool placed into the sink, and copy the others.

    ``sites`` are those of the result where they are not the pool's.
    """

    def one(site: Site) -> None:
        if site.floating and site.size:
            place(site)
        else:  # counters and masks have no average
            copy(pool, sink, site)

    for shard in sink.shards(pool.sites if sites is None else sites, tasks or {}):
        for _ in ordered(one, shard, workers):
            pass


def copy(pool: Pool, sink: Sink, site: Site) -> None:
    """The base's values of a site, as they are."""
    for start in range(0, site.size, BLOCK):
        sink.write(site, start, pool.origin(site, start, min(start + BLOCK, site.size)))


def stored(values: Array, site: Site, *, allow_nonfinite: bool = False) -> Array:
    """Merged values [n] as the site's type stores them.

    Raises :class:`PoolError` naming the tensor where one is not finite, or too large for the type.
    """
    rounded = narrow(values, site.kind)
    if allow_nonfinite or (finite(values) and _fits(values, rounded, site.kind)):
        return rounded
    raise PoolError(
        f"the merge gives NaN or infinite values in {site.name!r} ({site.words}); scale it less, "
        "or store it in a wider type"
    )


def _fits(values: Array, rounded: Array, kind: str) -> bool:
    match kind:
        case "F16":
            return bool(np.isfinite(rounded).all())
        case "BF16":  # the largest before infinity is 0x7F7F
            return bool((np.abs(values) < 3.3961e38).all())
    return True
