"""The way of every row through an adapted network: which task it belongs to, and what it was given.

Small modules deep inside a network read it, so that the modules between need not pass it on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Route:
    """What is known while some rows run.

    ``task`` [B] positions; ``rows``: tensors with a value for each row [B, ...], by name; ``made``:
    what was computed once for this forward, by the module that made it; ``penalties`` collects;
    ``groups``: the rows of each task, once they were asked for; ``carried``: what one module leaves
    for those that run after it; ``total``: the rows of the whole forward; ``off``: the frozen
    network runs alone; ``first``: with the adapters of the first stage.
    """

    task: Tensor
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    made: Mapping[Any, Any] = field(default_factory=dict)
    penalties: dict[str, Tensor] = field(default_factory=dict)
    groups: list[tuple[int, Tensor]] = field(default_factory=list)
    carried: dict[Any, Tensor] = field(default_factory=dict)
    total: int = 0
    off: bool = False
    first: bool = False

    def among(self, rows: Tensor) -> Route:
        """The route of some of the rows."""
        kept = {name: value.index_select(0, rows) for name, value in self.rows.items()}
        task = self.task.index_select(0, rows)
        return replace(self, task=task, rows=kept, groups=[], carried={})


class Routing:
    """The route of now; one object for all the small modules of a network."""

    def __init__(self) -> None:
        self._route: Route | None = None

    @contextmanager
    def to(
        self, task: Tensor, made: Mapping[Any, Any] | None = None, *, first: bool = False
    ) -> Iterator[Route]:
        """Inside, row b of everything that runs belongs to task ``task[b]``."""
        route = Route(task, made=made or {}, total=len(task), first=first)
        with self._at(route):
            yield route

    @contextmanager
    def among(self, rows: Tensor) -> Iterator[None]:
        """Inside, of the rows at hand only these run, in this order."""
        with nullcontext() if self._route is None else self._at(self._route.among(rows)):
            yield

    def giving(self, **rows: Tensor) -> AbstractContextManager[Route]:
        """Inside, modules find a value for each row [B, ...] under these names (:meth:`given`)."""
        return self._at(replace(self.now, rows={**self.now.rows, **rows}))

    def off(self) -> AbstractContextManager[Route]:
        """Inside, the frozen network runs alone."""
        return self._at(replace(self.now, off=True))

    @contextmanager
    def _at(self, route: Route) -> Iterator[Route]:
        before, self._route = self._route, route
        try:
            yield route
        finally:
            self._route = before

    @property
    def now(self) -> Route:
        """The route; ``RuntimeError`` outside of :meth:`to`."""
        if self._route is None:
            raise RuntimeError(
                "an adapter ran without knowing its rows' tasks: call the network, not its parts; "
                "under gradient checkpointing give checkpoint(..., context_fn=routing.contexts)"
            )
        return self._route

    @property
    def task(self) -> Tensor:
        """The tasks' positions [B]; ``RuntimeError`` outside of :meth:`to`."""
        return self.now.task

    def groups(self) -> Sequence[tuple[int, Tensor]]:
        """The present tasks, each with its rows.

        Counted once a forward, since counting waits for the device.
        """
        found = self.now.groups
        if not found:
            order = torch.argsort(self.task, stable=True)
            tasks, counts = torch.unique_consecutive(self.task[order], return_counts=True)
            found.extend(zip(tasks.tolist(), torch.split(order, counts.tolist()), strict=True))
        return found

    def given(self, name: str) -> Tensor:
        """The rows' values of that name [B, ...]."""
        return self.now.rows[name]

    @property
    def carried(self) -> dict[Any, Tensor]:
        """What modules left for those that run after them on these rows, by keys of their own.

        It stays for blocks that are recomputed, so nothing may take it out.
        """
        return self.now.carried

    @property
    def share(self) -> float:
        """How many of the rows of the whole forward are at hand."""
        return len(self.task) / max(self.now.total, 1)

    def made(self, by: Any) -> Any:
        """What a module made once for this forward."""
        return self.now.made[by]

    def penalise(self, name: str, value: Tensor) -> None:
        """Add a scalar to the loss, as the network's penalty of that name."""
        penalties = self.now.penalties
        penalties[name] = penalties[name] + value if name in penalties else value

    def contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[Any]]:
        """For ``torch.utils.checkpoint``: the route of now serves again when it recomputes."""
        return nullcontext(), self._at(self.now)

    def by_row(self, x: Tensor) -> Tensor:
        """Turn [B·n, d] or [B, ..., d] into [B, n, d], a row of the batch after another."""
        rows = len(self.task)
        if len(x) % max(rows, 1):
            raise ValueError(f"an adapter got {len(x)} rows for {rows} rows of the batch")
        each = math.prod(x.shape[:-1]) // max(rows, 1)  # numel() is no symbol in an exported graph
        return x.reshape(rows, each, x.shape[-1])
