"""State by task name: it loads in any order of tasks, and an absent task keeps what it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plait.balancing.signals import Rung, Signals


class TaskState(nn.Module):
    """Buffers whose first dimension is the tasks, saved as ``name/task``.

    Three kinds, each named with the value that a new task starts from. ``memory``: one number
    [T], float64. ``vectors``: anything of one shape for each task [T, ...], such as a running
    gradient [T, P] or a window of losses [T, N]. ``pairs``: the same for each ordered pair [T, T,
    ...]. The last two take shape and precision from what is first remembered; on the Jacobian rung
    that starts in the Jacobian's precision, elsewhere in float64.
    """

    memory: ClassVar[Mapping[str, float]] = {}
    vectors: ClassVar[Mapping[str, float]] = {}
    pairs: ClassVar[Mapping[str, float]] = {}
    tasks: tuple[str, ...]

    def __init__(self) -> None:
        super().__init__()
        self.tasks = ()
        for name in self.fills():
            self.register_buffer(name, self._blank(name))

    def fills(self) -> dict[str, float]:
        """The start of every state."""
        return {**self.memory, **self.vectors, **self.pairs}

    def bind(self, tasks: Iterable[str]) -> None:
        """Hold state for these tasks, in this order; tasks already known keep theirs."""
        tasks = tuple(tasks)
        if tasks == self.tasks:
            return
        known = {name: i for i, name in enumerate(self.tasks)}
        kept = torch.tensor([i for i, name in enumerate(tasks) if name in known], dtype=torch.long)
        source = torch.tensor([known[name] for name in tasks if name in known], dtype=torch.long)
        for name, fill in self.fills().items():
            old = getattr(self, name)
            if name in self.pairs:
                new = old.new_full((len(tasks), len(tasks), *old.shape[2:]), fill)
                new[kept[:, None], kept] = old[source[:, None], source]
            else:
                new = old.new_full((len(tasks), *old.shape[1:]), fill)
                new[kept] = old[source]
            setattr(self, name, new)
        self.tasks = tasks

    def rows(self, s: Signals) -> Tensor | slice:
        """Where the present tasks stand in the state."""
        if s.tasks == self.tasks:
            return slice(None)
        place = {name: i for i, name in enumerate(self.tasks)}
        return torch.tensor([place[name] for name in s.tasks], device=s.losses.device)

    def recall(self, name: str, s: Signals, *shape: int) -> Tensor:
        """A copy of the present tasks' state: [t], [t, *shape], or for pairs [t, t, *shape].

        Raises ``ValueError`` where something of another shape was remembered.
        """
        whole, rows = getattr(self, name), self.rows(s)
        pair = name in self.pairs
        if name not in self.memory and tuple(whole.shape[1 + pair :]) != shape:
            if whole[:1].numel():
                raise ValueError(
                    f"the state {name!r} holds {tuple(whole.shape[1 + pair :])} numbers for each "
                    f"task and this step has {shape}: it is of another network or setting"
                )
            # A network's precision, or ours; only who asks for the Jacobian may look at it.
            rows_of = s.jacobian if getattr(self, "rung", None) is Rung.JACOBIAN else None
            like = whole if rows_of is None else rows_of
            whole = like.new_full((*whole.shape[: 1 + pair], *shape), self.fills()[name])
        part: Tensor = whole[rows][:, rows] if pair else whole[rows]
        return part.clone() if isinstance(rows, slice) else part

    def remember(self, name: str, s: Signals, value: Tensor) -> None:
        """Keep the present tasks' new state, shaped as :meth:`recall` gives it."""
        whole, rows, value = getattr(self, name), self.rows(s), value.detach()
        pair = name in self.pairs
        shape = value.shape[1 + pair :]
        if name not in self.memory and whole.shape[1 + pair :] != shape:
            lead = whole.shape[: 1 + pair]
            whole = value.new_full((*lead, *shape), self.fills()[name])
            setattr(self, name, whole)
        if pair and isinstance(rows, Tensor):
            whole[rows[:, None], rows] = value.to(whole)
        else:
            whole[rows] = value.to(whole)

    def _blank(self, name: str) -> Tensor:
        if name in self.pairs:
            return torch.zeros(0, 0, 0, dtype=torch.float64)
        if name in self.vectors:
            return torch.zeros(0, 0, dtype=torch.float64)
        return torch.zeros(0, dtype=torch.float64)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        order = sorted(range(len(self.tasks)), key=self.tasks.__getitem__)
        for name in self.fills():
            whole = destination.pop(prefix + name)
            if name in self.pairs:  # a row's partners are in the order of their names
                whole = whole[:, order]
            for task, value in zip(self.tasks, whole, strict=True):
                destination[f"{prefix}{name}/{task}"] = value.clone()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **more: Any
    ) -> None:
        for name in self.fills():
            start = f"{prefix}{name}/"
            found = [entry.removeprefix(start) for entry in state_dict if entry.startswith(start)]
            if not self.tasks:
                TaskState.bind(self, found)
            lacking = sorted(set(self.tasks).symmetric_difference(found))
            if lacking:
                raise ValueError(
                    f"the saved state of {type(self).__name__} and its tasks differ in: "
                    f"{', '.join(lacking)}"
                )
            if not found:
                state_dict[prefix + name] = getattr(self, name)
                continue
            whole = torch.stack([state_dict.pop(start + task) for task in self.tasks])
            if name in self.pairs:
                place = {task: i for i, task in enumerate(sorted(self.tasks))}
                whole = whole[:, [place[task] for task in self.tasks]]
            here = getattr(self, name)
            if name not in self.memory and (here.shape, here.dtype) != (whole.shape, whole.dtype):
                setattr(self, name, whole.to(here.device, copy=True))
            state_dict[prefix + name] = whole
        super()._load_from_state_dict(state_dict, prefix, *rest, **more)
