"""Keeping the middle of every row: neither its largest magnitudes nor its many small ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from plait.merging.pool import Array
from plait.merging.stage import Context, Edit, Grain


@dataclass(frozen=True, kw_only=True)
class Middle(Edit):
    """Zero the ⌊d·outliers⌋ largest magnitudes of every row, and all but ⌊d·keep⌋ of the others.

    d is the length of a row (a vector is one row). One entry at least is kept; a single number is
    left as it is.
    """

    grain: ClassVar[Grain] = Grain.ROW
    keep: float
    outliers: float

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is a share above 0 and at most 1, not {self.keep:g}")
        if not 0 <= self.outliers < 1:
            raise ValueError(f"outliers is a share from 0 to below 1, not {self.outliers:g}")

    def __call__(self, deltas: Array, ctx: Context) -> Array:
        """Zero both ends [M, rows, d]."""
        width = deltas.shape[-1]
        high = width - int(width * self.outliers)
        low = high - min(max(int(width * self.keep), 1), high)
        cuts = [place for place in (low, high) if 0 < place < width]
        if not (cuts and ctx.site.shape):
            return deltas
        for rows in deltas:  # exactly so many are kept, whatever is equally large
            order = np.argpartition(np.abs(rows), cuts, axis=-1)
            np.put_along_axis(rows, order[:, :low], 0, axis=-1)
            np.put_along_axis(rows, order[:, high:], 0, axis=-1)
        return deltas
