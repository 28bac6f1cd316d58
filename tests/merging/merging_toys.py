"""What the tests of mergers share: shapes and task vectors of the pool."""

from __future__ import annotations

import numpy as np

from plait.merging.pool import Pool

SHAPES = {"a.0.weight": (12, 8), "a.0.bias": (12,), "a.1.weight": (9, 12), "a.1.scale": ()}


def deltas(pool: Pool, name: str) -> np.ndarray:
    """The task vectors [M, *s] of a tensor."""
    return np.stack([model[name] - pool.base[name] for model in pool.models.values()])


def flat(pool: Pool) -> np.ndarray:
    """The whole task vectors [M, P]."""
    rows = [deltas(pool, name).reshape(len(pool), -1) for name in SHAPES]
    return np.concatenate(rows, axis=1)


def merged_delta(pool: Pool, tensors: dict) -> np.ndarray:
    """The merged task vector [P]."""
    return np.concatenate([np.ravel(tensors[name] - pool.base[name]) for name in SHAPES])
