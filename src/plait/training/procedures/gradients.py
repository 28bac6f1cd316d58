"""The exact gradients of every task on a whole batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from plait.training.engine import Blocks, Gathered, added


@dataclass
class TaskGradients:
    """Exact task gradients of a whole batch.

    ``losses`` [t]; ``shared`` on the shared parameters; ``heads`` the unweighted gradients on the
    specific ones, None where unreached; ``penalties`` on all of them, None where there are none.
    """

    losses: Tensor
    shared: Gathered | Blocks
    heads: list[Tensor | None]
    penalties: list[Tensor | None] | None

    @cached_property
    def blocks(self) -> Blocks:
        """The gradients [t, *shape] on each shared parameter, None where unreached."""
        return self.shared if isinstance(self.shared, list) else self.shared.blocks()

    def plus(self, other: TaskGradients) -> TaskGradients:
        """The sums over two micro-batches; what is held here is given up."""
        assert isinstance(self.shared, Gathered)
        assert isinstance(other.shared, Gathered)
        penalties = self.penalties or other.penalties
        if self.penalties is not None and other.penalties is not None:
            penalties = added(self.penalties, other.penalties)
        return TaskGradients(
            self.losses + other.losses,
            self.shared.plus(other.shared),
            added(self.heads, other.heads),
            penalties,
        )
