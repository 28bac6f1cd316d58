"""Preparation: what the training rows taught about the inputs, to read new rows with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from plait.batch import Input, Part, Records
from plait.data.errors import DataError
from plait.data.fitting import Fitted
from plait.data.inputs import ENCODINGS, Encoding, View
from plait.data.profile import as_text
from plait.data.sources import Table, read
from plait.data.stores import Writer
from plait.method import did_you_mean
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Route:
    """Which rows a declared entry's tasks are asked for: all rows of ``table``, or by a column.

    ``tasks`` maps values of the column ``by`` to task names, or holds the names under themselves.
    """

    table: str
    tasks: Mapping[str, str]
    by: str | None = None
    unseen: str = "refuse"


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """The fitted encodings, the roles of each table's columns, and which tasks ask for which rows.

    It is self-contained: :meth:`from_json` of :meth:`to_json` needs neither the data nor any file.
    """

    encodings: tuple[Encoding, ...]
    roles: Mapping[str, Mapping[str, tuple[str, ...]]]
    routes: Mapping[str, Route]

    @classmethod
    def of(
        cls, fitted: Fitted, tables: Sequence[Table], routes: Mapping[str, Route]
    ) -> Preparation:
        """From what the training rows of some tables taught."""
        roles = {table.name: own for table, own in zip(tables, fitted.roles, strict=True)}
        return cls(encodings=fitted.encodings, roles=roles, routes=routes)

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables' names, in order."""
        return tuple(self.roles)

    @property
    def declared(self) -> Mapping[str, tuple[str, ...]]:
        """Declared names and the names of their tasks."""
        return {name: tuple(route.tasks.values()) for name, route in self.routes.items()}

    @cached_property
    def inputs(self) -> Mapping[str, Input]:
        """The inputs of a network by key."""
        return {each.input.key: each.input for each in self.encodings}

    def schema(self, table: str) -> tuple[str, ...]:
        """The keys of the inputs that a table has."""
        roles = self.roles[table]
        return tuple(
            each.input.key for each in self.encodings if any(role in roles for role in each.roles)
        )

    def encode(self, frame: Any, table: str | None = None) -> Part:
        """New rows (anything a study reads) as the inputs of one part, each [n, ...].

        ``table`` says whose columns they have; None finds the table whose columns are all there.
        Raises :class:`DataError` where columns are missing.
        """
        import torch

        source = self.read(frame)
        roles = self.roles[self.match(source, table)]
        columns = [name for names in roles.values() for name in names]
        writers = {each.input.key: Writer(None, each.input.key) for each in self.encodings}
        used = [each for each in self.encodings if any(role in roles for role in each.roles)]
        for chunk in source.chunks(columns):
            view = View(chunk, roles)
            for each in used:
                writers[each.input.key].add(each.encode(view))
        everything = torch.arange(source.rows)
        return {
            each.input.key: writers[each.input.key].store(each.finish).take(everything)
            for each in used
        }

    def read(self, frame: Any) -> Table:
        """Anything a study reads, as a table."""
        return frame if isinstance(frame, Table) else read(frame, "rows")

    def match(self, source: Table, table: str | None = None) -> str:
        """The table whose columns the rows have; :class:`DataError` where some are missing."""
        wanted = {
            name: {column for columns in roles.values() for column in columns}
            for name, roles in self.roles.items()
        }
        if table is not None:
            if table not in wanted:
                raise DataError(f"no table {table!r}{did_you_mean(table, wanted)}")
            wanted = {table: wanted[table]}
        have = set(source.columns)
        lacks = {name: sorted(columns - have) for name, columns in wanted.items()}
        fitting = [name for name, missing in lacks.items() if not missing]
        if fitting:
            return max(fitting, key=lambda name: len(wanted[name]))
        nearest = min(lacks, key=lambda name: len(lacks[name]))
        first, *others = lacks[nearest]
        also = "".join(f"; no {each!r}{did_you_mean(each, have)}" for each in others[:3])
        raise DataError(
            f"{source.place}: no column {first!r}{did_you_mean(first, have)}{also} "
            f"(the model reads: {', '.join(sorted(wanted[nearest]))})"
        )

    def asked(
        self, frame: Any, tasks: TaskSet, only: Sequence[str] | None = None
    ) -> Mapping[str, Records]:
        """Which task's output is wanted on which of the rows [n], by head group.

        A task named by a column's value is asked on the rows with that value, others on every row.
        ``only`` are the declared names wanted (None: all whose tasks are in ``tasks``).
        """
        import torch

        source = self.read(frame)
        pairs: dict[str, tuple[list[Any], list[Any]]] = {}
        for name in self.routes if only is None else only:
            if name not in self.routes:
                raise DataError(f"no declared task {name!r}{did_you_mean(name, self.routes)}")
            for task, chosen in self._rows(self.routes[name], source):
                if task in tasks.position:
                    key = tasks[task].group
                    found = pairs.setdefault(key, ([], []))
                    position = tasks.groups[key].position[task]
                    found[0].append(np.full(len(chosen), position))
                    found[1].append(chosen)
        records = {}
        for key, (task_parts, row_parts) in pairs.items():
            positions, rows = np.concatenate(task_parts), np.concatenate(row_parts)
            order = np.argsort(positions, kind="stable")
            records[key] = Records(
                torch.from_numpy(positions[order]), torch.from_numpy(rows[order])
            )
        return records

    def _rows(self, route: Route, source: Table) -> list[tuple[str, Any]]:
        if route.by is None:
            return [(task, np.arange(source.rows)) for task in route.tasks.values()]
        source.need(route.by, "the tasks' names")
        values = as_text(source.collect([route.by])[route.by])
        known = values.is_in(list(route.tasks)).fill_null(value=False).to_numpy()
        if route.unseen == "refuse" and not known.all():
            row = int(np.argmin(known))
            hint = did_you_mean(str(values[row]), route.tasks)
            raise DataError(f"{source.where(row)}: no task for {route.by} {values[row]!r}{hint}")
        codes = values.to_numpy()
        order = np.argsort(np.where(known, codes, ""), kind="stable")
        ordered = np.where(known, codes, "")[order]
        found = []
        for value, task in route.tasks.items():
            low, high = np.searchsorted(ordered, [value, value + "\0"])
            if high > low:
                found.append((task, np.sort(order[low:high])))
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "version": 1,
            "encodings": [{each.input.type: each.to_json()} for each in self.encodings],
            "tables": {
                table: {role: list(columns) for role, columns in roles.items()}
                for table, roles in self.roles.items()
            },
            "routes": {
                name: {
                    "table": route.table, "tasks": dict(route.tasks), "by": route.by,
                    "unseen": route.unseen,
                }
                for name, route in self.routes.items()
            },
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preparation:
        """Read :meth:`to_json` back; :class:`DataError` for a version this plait does not know."""
        if data.get("version") != 1:
            raise DataError(f"a preparation of version {data.get('version')}; this plait reads 1")
        encodings = []
        for spelled in data["encodings"]:
            ((kind, settings),) = spelled.items()
            encodings.append(ENCODINGS[kind].from_json(settings))
        return cls(
            encodings=tuple(encodings),
            roles={
                table: {role: tuple(columns) for role, columns in roles.items()}
                for table, roles in data["tables"].items()
            },
            routes={name: Route(**route) for name, route in data["routes"].items()},
        )
