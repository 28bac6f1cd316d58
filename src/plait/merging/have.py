"""What there is beside the checkpoints of a merge, and which needs it meets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from plait.merging.pool import Pool
from plait.method import Need
from plait.weights.sources import State

if TYPE_CHECKING:
    from plait.merging.bench import Bench

# What a method may look at only where its card, or its settings, say so.
SEEING = frozenset(
    {
        Need.UNLABELLED,
        Need.LABELLED,
        Need.HEADS,
        Need.FEATURES,
        Need.BACKWARD,
        Need.ROUTER_DATA,
    }
)


@dataclass(frozen=True, kw_only=True)
class Have:
    """What there is beside the checkpoints.

    ``validation`` takes a merged state and returns its loss on validation rows, lower is better.
    ``bench`` runs the network at any weights on rows for training, ``held`` on rows for validation.
    """

    validation: Callable[[State], float] | None = None
    bench: Bench | None = None
    held: Bench | None = None

    def owned(self, pool: Pool) -> frozenset[Need]:
        """The needs that are met; the task of a row is known wherever it is served."""
        met = {
            Need.BASE: pool.base is not None,
            Need.VALIDATION: self.validation is not None,
            Need.TASK_ID: True,
            Need.ORDERED: True,  # the pool's models have the order in which they were given
        }
        own = frozenset() if self.bench is None else self.bench.offers
        return own | {need for need, there in met.items() if there}

    def granted(self, needs: frozenset[Need]) -> Have:
        """The same, but that a look at anything else than these needs name raises."""
        bench = None if self.bench is None or not needs & SEEING else self.bench.granted(needs)
        held = None if self.held is None or Need.VALIDATION not in needs else self.held
        return replace(self, bench=bench, held=held)

    @property
    def live(self) -> Bench:
        """The bench, which the method's needs have asked for."""
        if self.bench is None:
            raise LookupError("a method looks at data that its card does not ask for")
        return self.bench
