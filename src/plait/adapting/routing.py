"""The way of every row through an adapted network: which task it belongs to, and what it was given.

Small modules deep inside a network read it, so that the modules between need not pass it on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Route:
    """What is known while some rows run.

    ``task`` [B] positions; ``rows``: tensors with a value for each row [B, ...], by name; ``made``:
    what was computed once for this forward, by the module that made it; ``penalties`` collects;
    ``off``: the frozen network runs alone; ``first``: with the adapters of the first stage.
    """

    task: Tensor
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    made: Mapping[Any, Any] = field(default_factory=dict)
    penalties: dict[str, Tensor] = field(default_factory=dict)
    off: bool = False
    first: bool = False

    def among(self, rows: Tensor) -> Route:
        """The route of some of the rows."""
        kept = {name: value.index_select(0, rows) for name, value in self.rows.items()}
        return replace(self, task=self.task.index_select(0, rows), rows=kept)


class Routing:
    """The route of now; one object for all the small modules of a network."""

    def __init__(self) -> None:
        self._route: Route | None = None

    @contextmanager
    def to(
        self, task: Tensor, made: Mapping[Any, Any] | None = None, *, first: bool = False
    ) -> Iterator[Route]:
        """Inside, row b of everything that runs belongs to task ``task[b]``."""
        with self._at(Route(task, made=made or {}, first=first)) as route:
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

    def given(self, name: str) -> Tensor:
        """The rows' values of that name [B, ...]."""
        return self.now.rows[name]

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
