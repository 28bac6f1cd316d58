"""Batches: input rows in parts, and the records that carry a label.

A *record* is (task, row, target, weight). No label, no record: missing labels are never masked and
never NaN, and an absent task has no record. Records are kept by head group and sorted by task, so
that one gather and one batched product serve every task of a group; the dict of tasks is a view.

Data are described in these words without torch, which is loaded when a batch is first worked on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

from plait.task import TaskSet

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Input:
    """One encoded input of a network, as it appears in a part under ``key``.

    numeric [B, width]: standardised values, then missing indicators. categorical [B, columns]:
    codes below ``sizes``, 0 for unknown. hashed [B, 1]: buckets likewise, 0 for missing. text [B,
    longest]: token numbers below ``sizes[0]``, 0 for padding; list and sequence [B, longest]: item
    numbers likewise. image [B, channels, height, width]. vector [B, width]. ``shape`` is what
    follows B (-1: varies).
    """

    key: str
    type: str
    shape: tuple[int, ...]
    sizes: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """The last dimension."""
        return self.shape[-1]

    @property
    def worded(self) -> bool:
        """Whether it is rows of differing numbers of tokens or items, 0 being padding."""
        return self.type in ("text", "list", "sequence")

    @property
    def coded(self) -> bool:
        """Whether it is columns of codes, each of which stands for something."""
        return self.type in ("categorical", "hashed")

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers that stand for something."""
        return self.worded or self.coded


Part = Mapping[str, "Tensor"]  # the inputs of one schema by name, each [rows of the part, ...]
Parts = Mapping[str, Part]  # by schema; the rows of a batch are its parts' rows, one after another


@dataclass(frozen=True)
class Records:
    """Which task's output is asked for on which row.

    ``task`` [N] holds positions in the head group, ascending; ``rows`` [N] (or [N, k] for pairs and
    lists) points into the batch's rows.
    """

    task: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.task)

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same records with every tensor changed (moved to a device, say)."""
        return replace(
            self,
            **{
                f.name: change(value)
                for f in fields(self)
                if (value := getattr(self, f.name)) is not None
            },
        )

    def select(self, which: Tensor) -> Self:
        """The records at the given positions, or where the mask is true."""
        return self.map(lambda tensor: tensor[which])


@dataclass(frozen=True)
class Labels(Records):
    """Records with their targets.

    ``target`` [N]: 0/1 floats for binary, class numbers for classes and ordinal, standardised
    floats for real, counts; [N, L] class numbers for tokens. ``weight`` [N] or None for ones.
    ``group`` [N]: query or session. ``valid`` [N, ...]: which positions inside a labelled row
    count; what stands at the others means nothing.
    """

    target: Tensor
    weight: Tensor | None = None
    group: Tensor | None = None
    valid: Tensor | None = None

    @property
    def units(self) -> Tensor | None:
        """What each record weighs in its task's mean, [N]: its weight for each valid position.

        None for ones.
        """
        if self.valid is None:
            return self.weight
        count = self.valid.flatten(1).sum(1)
        return count.float() if self.weight is None else count * self.weight


@dataclass(frozen=True)
class Batch:
    """Rows and records for one step. ``ids`` [B] are the rows' numbers in their dataset."""

    parts: Parts
    labels: Mapping[str, Labels]
    tasks: TaskSet
    ids: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def task(self, name: str) -> Labels:
        """The records of one task; ``KeyError`` for an unknown one, empty for an absent one."""
        import torch

        key = self.tasks[name].group
        position = self.tasks.groups[key].position[name]
        if key not in self.labels:
            nothing = torch.zeros(0, dtype=torch.long, device=self.ids.device)
            return Labels(nothing, nothing, torch.zeros(0, device=self.ids.device))
        labels = self.labels[key]
        low, high = torch.searchsorted(
            labels.task, torch.tensor([position, position + 1], device=labels.task.device)
        ).tolist()
        return labels.map(lambda tensor: tensor[low:high])

    @cached_property
    def units(self) -> Mapping[str, Tensor]:
        """Label counts per task of each head group, [tasks of the group], before any forward."""
        import torch

        found = {}
        for key, group in self.tasks.groups.items():
            if key in self.labels:
                task = self.labels[key].task
                found[key] = torch.bincount(task, minlength=len(group.tasks))
        return found

    @cached_property
    def present(self) -> tuple[str, ...]:
        """The tasks that have a record here, in the order of the set."""
        counts = {key: units.tolist() for key, units in self.units.items()}
        return tuple(
            task.name
            for task in self.tasks
            if task.group in counts
            and counts[task.group][self.tasks.groups[task.group].position[task.name]]
        )

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        parts = {
            schema: {name: tensor.to(device, non_blocking=True) for name, tensor in part.items()}
            for schema, part in self.parts.items()
        }
        labels = {key: found.map(lambda t: t.to(device)) for key, found in self.labels.items()}
        return replace(self, parts=parts, labels=labels, ids=self.ids.to(device))

    def split(self, pieces: int) -> list[Batch]:
        """The batch cut by rows into at most that many micro-batches, none of them empty."""
        import torch

        cuts = torch.tensor_split(torch.arange(len(self), device=self.ids.device), pieces)
        return [self.rows(cut) for cut in cuts if len(cut)]

    def rows(self, chosen: Tensor) -> Batch:
        """The batch restricted to the given rows (ascending positions, each at most once)."""
        import torch

        place = torch.full((len(self),), -1, dtype=torch.long, device=self.ids.device)
        place[chosen] = torch.arange(len(chosen), device=self.ids.device)
        parts, start = {}, 0
        for schema, part in self.parts.items():
            length = len(next(iter(part.values())))
            mine = chosen[(chosen >= start) & (chosen < start + length)] - start
            if len(mine):
                parts[schema] = {name: tensor[mine] for name, tensor in part.items()}
            start += length
        labels = {}
        for key, found in self.labels.items():
            where = place[found.rows]
            keep = where >= 0 if where.ndim == 1 else (where >= 0).all(1)
            if keep.any():
                labels[key] = replace(found.select(keep), rows=where[keep])
        return replace(self, parts=parts, labels=labels, ids=self.ids[chosen])

    def only(self, names: set[str]) -> Batch:
        """The batch with the records of the named tasks only; rows are kept."""
        import torch

        labels = {}
        for key, found in self.labels.items():
            wanted = torch.tensor(
                [name in names for name in self.tasks.groups[key].tasks], device=self.ids.device
            )
            keep = wanted[found.task]
            if keep.any():
                labels[key] = found.select(keep)
        return replace(self, labels=labels)
