"""What gradients are multiplied by: a share of a longer step, and the scale of lower precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from plait.training.engine.gathered import Gathered
from plait.training.engine.roots import Root, roots_of
from plait.training.measuring import Losses


@dataclass(frozen=True)
class Scaling:
    """Passes run on losses times ``scale``, a scalar; ``share`` of it all is kept."""

    scale: Tensor | None = None
    share: float = 1.0

    @classmethod
    def of(cls, scaler: torch.amp.GradScaler | None, losses: Losses, share: float) -> Scaling:
        """The scale that the scaler has now.

        Raises ``ValueError`` for a share that is not positive.
        """
        if not share > 0:
            raise ValueError(f"share must be positive, got {share}")
        if scaler is None or not scaler.is_enabled():
            return cls(share=share)
        return cls(scaler.scale(torch.ones_like(losses.value[0].detach())), share)

    def started(self, roots: Sequence[Root], told: Losses) -> tuple[Sequence[Root], Losses]:
        """The roots and losses of the passes."""
        if self.scale is None:
            return roots, told
        told = replace(told, value=told.value * self.scale)
        if any(root.cotangent is not None for root in roots):
            return roots_of(told), told
        return [Root(root.output * self.scale) for root in roots], told

    def unscaled(self, found: Gathered) -> Gathered:
        """What the balancer is to see of what the passes found."""
        return found if self.scale is None else found.times(1 / self.scale)

    def kept(self, updates: Sequence[Tensor | None]) -> list[Tensor | None]:
        """What is to be added for unscaled updates."""
        factor = self.share if self.scale is None else self.scale * self.share
        if self.scale is None and self.share == 1:
            return list(updates)
        return [update if update is None else update * factor for update in updates]


def overflown(shared: Sequence[nn.Parameter]) -> None:
    """Leave an infinite gradient, by which a scaler knows that the step must be skipped."""
    shared[0].grad = torch.full_like(shared[0], torch.inf)
