"""How far models lie from their base and from one another: what tells a wrong base.

With δ_m = θ_m − θ₀ over a sample of every tensor (a run of values from its middle), the distance of
a model is ‖δ_m‖ / ‖θ₀‖ and two models' likeness the cosine of their δ. Models tuned from the base
lie near it (hundredths, rarely above a third) and in directions of their own; a model of another
origin lies at about √2, and models tuned from another base than the one given share the way there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from plait.merging.pool import Pool, finite

SAMPLE = 1 << 16  # values of each tensor
FAR = 0.7  # halfway to √2, where nothing is shared
ALIKE = 0.8  # the least cosine of any two, when most of the way from the base is a common one
STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, kw_only=True)
class Kinship:
    """Distances by model from ``origin``, and cosines by pair where there is a base.

    Without a base distances are those from the first model, which has none itself. ``counted``
    names the running statistics among the tensors.
    """

    origin: str
    distances: Mapping[str, float]
    cosines: Mapping[tuple[str, str], float]
    counted: tuple[str, ...]

    def doubts(self) -> Iterator[str]:
        """What looks wrong, in words."""
        for name, distance in self.distances.items():
            if distance > FAR:
                yield (
                    f"{name!r} shares little with {self.origin}: they differ by {distance:.0%} of "
                    "its norm; was it made from that? Models of different starts are merged by "
                    "zipit or pleas, which match their units first"
                )
            elif distance == 0:
                yield f"{name!r} is the same as {self.origin} wherever it was looked at"
        least = min(self.cosines.values(), default=0.0)
        if least > ALIKE:
            yield (
                f"all models lie in one direction from the base (cosines of {least:.2f} and more): "
                "they seem to come from another base, which they share"
            )
        if self.counted:
            more = f" and {len(self.counted) - 1} more" if len(self.counted) > 1 else ""
            yield (
                f"{self.counted[0]!r}{more} are running statistics of batch norm; they are merged "
                "as weights are and fit the merged model only roughly: measure them again on data"
            )

    def told(self) -> dict[str, object]:
        """The figures as plain data."""
        rows = [[one, other, round(value, 4)] for (one, other), value in self.cosines.items()]
        distances = {name: round(value, 6) for name, value in self.distances.items()}
        return {"distances": distances, "cosines": rows, "doubts": list(self.doubts())}


def kinship(pool: Pool) -> Kinship:
    """Distances and cosines of a pool's models, over a sample of every floating tensor."""
    gram, size = np.zeros((len(pool), len(pool))), 0.0
    against = pool.base is not None
    for site in pool.sites:
        if not (site.floating and site.size):
            continue
        start = max(site.size - SAMPLE, 0) // 2
        stop = min(start + SAMPLE, site.size)
        origin = np.empty(stop - start, site.working)
        pool.read_origin(site, start, stop, origin)
        values, _ = pool.block(site, start, stop, against_base=against, check=False)
        if not against:
            values -= origin
        if finite(values) and finite(origin):
            gram += values @ values.T
            size += float(origin @ origin)
    norms = np.sqrt(np.diagonal(gram))
    names = pool.names if against else pool.names[1:]
    own = dict(zip(pool.names, norms / (np.sqrt(size) or 1.0), strict=True))
    found = {}
    for (i, one), (j, other) in combinations(enumerate(pool.names), 2) if against else ():
        both = norms[i] * norms[j]
        found[one, other] = float(gram[i, j] / both) if both else 0.0
    return Kinship(
        origin="the base" if against else f"{pool.names[0]!r}",
        distances={name: float(own[name]) for name in names},
        cosines=found,
        counted=tuple(site.name for site in pool.sites if site.name.endswith(STATISTICS)),
    )
