"""Which rows and which seeds each bootstrap replicate draws: the same for all that is compared.

Units (rows, or groups of rows such as a user) are drawn with replacement, jointly over the tasks
that share any, so that a row's labels of several tasks move together; tasks without common units
are drawn independently. The draws depend on the seed and on which units there are, never on the
order of tasks or strategies.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from plait.data.seeding import generator
from plait.metrics.base import Floats

LARGEST = 100_000_000  # units × replicates held at once; beyond it, fewer replicates
FEWEST = 200
_AT_ONCE = 4_000_000


class Resamples:
    """Paired bootstrap draws for tasks whose test rows consist of units.

    ``units`` maps each task to the units of its rows. ``replicates`` is lowered, to no less than
    200, where there are so many units that the draws would not fit; the attribute says to what.
    The attribute ``units`` counts all units, ``pool_of`` numbers the tasks that share any.
    """

    def __init__(
        self, units: Mapping[str, NDArray[Any]], *, replicates: int = 1000, seed: int = 0
    ) -> None:
        if replicates < 1:
            raise ValueError(f"replicates must be 1 or more, got {replicates}")
        self.seed = int(seed)
        names = sorted(units)
        self._pools = _pools({name: np.unique(np.asarray(units[name])) for name in names})
        self.pool_of = {name: at for at, (members, _) in enumerate(self._pools) for name in members}
        self.units = sum(len(pool) for _, pool in self._pools)
        largest = max((len(pool) for _, pool in self._pools), default=1)
        self.replicates = min(replicates, max(FEWEST, LARGEST // max(largest, 1)))
        self._drawn: tuple[int, NDArray[np.uint8]] | None = None

    def counts(self, task: str, units: NDArray[Any]) -> NDArray[np.uint8]:
        """How often each row is drawn, [1 + R, n]; the first replicate draws every row once.

        Rows come as their ``units`` [n]. Asking for tasks in the order of ``pool_of`` is quickest.
        """
        at = self.pool_of[task]
        if self._drawn is None or self._drawn[0] != at:
            self._drawn = (at, self._draw(self._pools[at][1]))
        # One unit's replicates lie side by side: a row is copied whole, and [R, n] is a view.
        rows = self._drawn[1][np.searchsorted(self._pools[at][1], units)]
        return rows.T

    def _draw(self, pool: NDArray[Any]) -> NDArray[np.uint8]:
        n = len(pool)
        name = blake2b("\x1f".join(map(str, pool.tolist())).encode(), digest_size=8).hexdigest()
        random = generator(self.seed, "units", name)
        counts = np.ones((n, 1 + self.replicates), np.uint8)
        step = max(1, _AT_ONCE // max(n, 1))
        for start in range(0, self.replicates, step):
            some = min(step, self.replicates - start)
            drawn = random.integers(0, n, (some, n)) * some + np.arange(some)[:, None]
            found = np.bincount(drawn.ravel(), minlength=n * some).reshape(n, some)
            counts[:, 1 + start : 1 + start + some] = np.minimum(found, 255)
        return counts

    def seeds(self, seeds: Sequence[Hashable]) -> Floats:
        """Weights of the seeds in the mean, [1 + R, K]; all equal in the first replicate.

        K − 1 of K seeds are drawn with replacement: with so few, drawing K would understate the
        variance of their mean by the factor (K − 1)/K (Rao and Wu, 1988).
        """
        k = len(seeds)
        weights = np.full((1 + self.replicates, k), 1 / k)
        if k > 1:
            random = generator(self.seed, "seeds", *map(str, seeds))
            drawn = random.multinomial(k - 1, np.full(k, 1 / k), self.replicates)
            weights[1:] = drawn / (k - 1)
        return weights


def _pools(units: Mapping[str, NDArray[Any]]) -> list[tuple[list[str], NDArray[Any]]]:
    """Tasks that share units, directly or through others, with all units of theirs, sorted."""
    if not units:
        return []
    names = list(units)
    known, at = np.unique(np.concatenate([units[name] for name in names]), return_inverse=True)
    edges = np.cumsum([0, *(len(units[name]) for name in names)])
    size = len(names) + len(known)
    links = csr_array((np.ones(len(at)), len(names) + at, np.pad(edges, (0, len(known)), "edge")),
                      shape=(size, size))  # fmt: skip
    _, part = connected_components(links, directed=False)
    members: dict[int, list[str]] = {}
    for name, number in zip(names, part[: len(names)], strict=True):
        members.setdefault(int(number), []).append(name)
    return [(some, known[part[len(names) :] == number]) for number, some in members.items()]
