"""Frank-Wolfe over a pool: which vertex lies most against the gradient at some weights.

    score(v) = Σ_l cos(∂L/∂θ^l, v^l),   v^l = θ₀^l + Σ_m V_vm δ_m^l

with v^l the *full* weights of a vertex at tensor l, a mixture [M] of the pool's task vectors
δ_m = θ_m − θ₀ (a model is 1 at its own place). A tensor that is all zero, or on which no loss
depends, has no angle and counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from plait.merging.bench import array
from plait.merging.engine import BLOCK
from plait.merging.objectives import Objective
from plait.merging.pool import Array
from plait.merging.tune import Mix


def cosines(
    mix: Mix,
    tasks: Iterable[str],
    objective: Objective,
    vertices: Array,
    *,
    rows: int,
    seed: int,
    products: bool = False,
) -> Array:
    """The cosines [L, K] of K vertices [K, M] to the gradient at the weights on the bench.

    With ``products`` their inner products, as they are.

    The gradient is that of the tasks' objectives, added up, each a mean over at most ``rows`` rows.
    """
    bench = mix.bench
    bench.forget()
    for task in tasks:
        count = min(rows, bench.count(task))
        for chosen in bench.batches(task, rows, 32, seed):
            bench.backward(objective(task, chosen) * (len(chosen) / count))
    found, own = [], bench.weights
    for site in mix.sites:
        inner, squares, slopes = np.zeros(len(vertices)), np.zeros(len(vertices)), 0.0
        gradient = own[site.name].grad
        flat = np.zeros(site.size) if gradient is None else array(gradient).reshape(-1)
        for start in range(0, site.size, BLOCK):
            stop = min(start + BLOCK, site.size)
            deltas, base = mix.pool.block(site, start, stop, against_base=True)
            slope, wide = flat[start:stop].astype(np.float64), deltas.astype(np.float64)
            slopes += float(slope @ slope)
            for place, vertex in enumerate(vertices):
                values = base + vertex @ wide
                inner[place] += values @ slope
                squares[place] += values @ values
        lengths = np.ones_like(inner) if products else np.sqrt(squares * slopes)
        found.append(np.divide(inner, lengths, out=np.zeros_like(inner), where=lengths > 0))
    bench.forget()
    return np.array(found)
