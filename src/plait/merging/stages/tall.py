"""Which entries of a merged task vector are a model's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from plait.merging.pool import Array


def own_entries(deltas: Array, merged: Array, thresholds: Sequence[float]) -> Array:
    """Masks [M, n] of |δ_m| > λ_m |δ − δ_m|: deltas [M, n], the merged one [n]."""
    masks = np.empty(deltas.shape, bool)
    for mask, delta, factor in zip(masks, deltas, thresholds, strict=True):
        np.greater(np.abs(delta), delta.dtype.type(factor) * np.abs(merged - delta), out=mask)
    return masks


def thresholds(given: float | Mapping[str, float], names: Sequence[str]) -> tuple[float, ...]:
    """One λ for each model. Raises ``ValueError`` where names differ or one is negative."""
    by_name = given if isinstance(given, Mapping) else dict.fromkeys(names, given)
    strange = sorted(set(by_name) ^ set(names))
    if strange:
        raise ValueError(f"thresholds and models differ in: {', '.join(strange)}")
    if min(by_name.values()) < 0:
        raise ValueError("a threshold of masks is 0 or more")
    return tuple(float(by_name[name]) for name in names)
