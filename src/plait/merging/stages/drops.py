"""Dropping entries at random."""

from __future__ import annotations

from dataclasses import dataclass

from plait.merging.pool import Array
from plait.merging.stage import Context, Edit

STEPS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Drop(Edit):
    """Set entries to zero at the rate ``drop``, and divide the others by the share that is kept.

    The rate is rounded to 1/65,536. Every model's mask is of its own.
    """

    drop: float
    seed: int = 0

    def __call__(self, deltas: Array, ctx: Context) -> Array:
        """Drop and rescale."""
        kept = STEPS - round(self.drop * STEPS)
        factor = deltas.dtype.type(STEPS / max(kept, 1))
        for model, row in zip(ctx.models, deltas, strict=True):
            numbers = ctx.draws(self.seed, model).integers(ctx.start, ctx.start + row.size)
            row *= (numbers < kept).reshape(row.shape)
            row *= factor
        return deltas
