"""Small modules on a frozen network: what an adapter is, and how rows find their task's slice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn

from plait.method import Method
from plait.sites import ModuleSite, module_sites
from plait.task import TaskSet

# The query and value projections of attention, as the common libraries name them.
ATTENTION = ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin")


class Routing:
    """The task of every row while an adapted network runs.

    Banks deep inside a network read it, so that the modules between need not pass it on.
    """

    def __init__(self) -> None:
        self._task: Tensor | None = None

    @contextmanager
    def to(self, task: Tensor) -> Iterator[None]:
        """Inside, row b of everything that runs belongs to task ``task[b]``."""
        before, self._task = self._task, task
        try:
            yield
        finally:
            self._task = before

    @contextmanager
    def among(self, rows: Tensor) -> Iterator[None]:
        """Inside, of the rows at hand only these run, in this order."""
        with nullcontext() if self._task is None else self.to(self._task.index_select(0, rows)):
            yield

    @property
    def task(self) -> Tensor:
        """The tasks' positions [B]; ``RuntimeError`` outside of :meth:`to`."""
        if self._task is None:
            raise RuntimeError(
                "an adapter ran without knowing its rows' tasks: call the network, not its parts; "
                "under gradient checkpointing give checkpoint(..., context_fn=routing.contexts)"
            )
        return self._task

    def contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For ``torch.utils.checkpoint``: the tasks of now serve again when it recomputes."""
        return nullcontext(), self.to(self.task)

    def by_row(self, x: Tensor) -> Tensor:
        """Turn [B·n, d] or [B, ..., d] into [B, n, d], a row of the batch after another."""
        rows = len(self.task)
        if len(x) % max(rows, 1):
            raise ValueError(f"an adapter got {len(x)} rows for {rows} rows of the batch")
        each = math.prod(x.shape[:-1]) // max(rows, 1)  # numel() is no symbol in an exported graph
        return x.reshape(rows, each, x.shape[-1])


class AdaptedLayer(nn.Module):
    """A layer with an adapter that can be written as plain weights, one task at a time."""

    def fold(self, task: int) -> None:
        """Make one task part of the weights; ``ValueError`` where one is already."""
        raise NotImplementedError

    def unfold(self) -> None:
        """Restore the frozen weights, bit for bit; ``ValueError`` where no task is folded in."""
        raise NotImplementedError


class Adapter(Method):
    """A kind of small module; ``card.family`` is ``adapting``.

    ``sites``: glob patterns of the modules to adapt; empty for the query and value projections
    where the network has attention, else every linear layer.
    """

    sites: Sequence[str]

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Put the adapter at the sites; returns its banks by (escaped) path, all that it trains.

        Where plain weights can express it, what stands at a site is an :class:`AdaptedLayer`.
        """
        raise NotImplementedError

    def choose(self, network: nn.Module) -> list[ModuleSite]:
        """The linear layers of the network that this adapter's ``sites`` name.

        Raises ``ValueError`` with the nearest names for a pattern that matches none.
        """
        if self.sites:
            return module_sites(network, self.sites, types=(nn.Linear,))
        linear = module_sites(network, types=(nn.Linear,))
        attention = [site for site in linear if site.path.rpartition(".")[2] in ATTENTION]
        if not linear:
            raise ValueError("the network has no linear layer to adapt; name its sites")
        return attention or linear
