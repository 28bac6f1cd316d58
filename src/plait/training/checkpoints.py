"""Training state in a folder: safetensors and JSON, by task name, whole or absent at any moment.

The tensors of a step go to a file of their own; ``checkpoint.json``, replaced last, names it.
Slices of stacked parameters and their optimizer states are stored with the names of their tasks and
load into a network whose tasks stand in another order. Frozen parameters are not stored.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from plait.balancing.base import Balancer
from plait.networks import Network
from plait.networks.base import Slice, bank_slices, task_slices
from plait.training.best import Best, moving, put
from plait.training.optim import RowwiseAdamW
from plait.weights.files import read_json, sweep, write_atomic, write_json

INDEX = "checkpoint.json"
JUDGED = ("score", "steps", "waited")
SAVE_SECONDS = 60.0  # no more than this much work is lost by a crash


@dataclass
class Progress:
    """Where a training stands, as plain data.

    ``bad`` counts each task's steps in a row that were not finite, ``skipped`` all of them.
    """

    step: int = 0
    validated: int = 0
    seconds: float = 0.0
    bad: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Checkpoint:
    """Everything that a resumed training needs; ``about`` is what must be the same again.

    Without a ``folder`` nothing is saved or loaded. ``memory`` is the procedure's.
    """

    network: Network
    optimizer: torch.optim.Optimizer
    balancer: Balancer
    best: Best
    progress: Progress
    about: Mapping[str, Any]
    folder: Path | None = None
    memory: nn.Module | None = None
    _saved: float = field(default_factory=time.monotonic)
    _started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long the training has run, earlier runs included."""
        return self.progress.seconds + time.monotonic() - self._started

    def save(self, *, every: int | None = None, now: bool = False) -> None:
        """Save if it is time: every so many steps, or (None) every minute."""
        if self.folder is None:
            return
        late = time.monotonic() - self._saved >= SAVE_SECONDS
        if now or (late if every is None else self.progress.step % every == 0):
            self.write(self.folder)
            self._saved = time.monotonic()

    def write(self, folder: Path) -> None:
        """Write the state of this step, then forget the one before."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors, plain = self._optimizer_state()
        tensors |= {f"network/{name}": value for name, value in moving(self.network).items()}
        tensors |= {f"balancer/{name}": value for name, value in self.balancer.state_dict().items()}
        if self.memory is not None:
            tensors |= {f"memory/{name}": value for name, value in self.memory.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in self.best.weights.items()}
        name = f"state-{self.progress.step}.safetensors"
        data = save({key: _whole(value) for key, value in tensors.items()})
        write_atomic(folder / name, data)
        record = {
            "about": dict(self.about),
            "tensors": name,
            "slices": {n: [_told(each) for each in slices] for n, slices in self._slices()},
            "optimizer": plain,
            "progress": {**asdict(self.progress), "seconds": self.seconds},
            "best": {name: getattr(self.best, name) for name in JUDGED},
        }
        write_json(folder / INDEX, _finite(record))
        for old in folder.glob("state-*.safetensors"):
            if old.name != name:
                old.unlink(missing_ok=True)

    def load(self) -> None:
        """Take up the state in the folder, if there is one.

        Raises ``ValueError`` if it is the state of another training.
        """
        folder = self.folder
        if folder is None or not (folder / INDEX).exists():
            return
        sweep(folder)
        record = read_json(folder / INDEX)
        for key, here in _finite(dict(self.about)).items():
            there = record["about"].get(key)
            if there != here:
                raise ValueError(
                    f"the checkpoint in {folder} is of another training: {key} is {there!r} there "
                    f"and {here!r} here; use another folder, or remove this one"
                )
        orders = self._orders(record["slices"])
        parts: dict[str, dict[str, Tensor]] = {
            kind: {} for kind in ("network", "balancer", "memory", "best")
        }
        moments: dict[str, dict[str, Tensor]] = {}
        for path, value in load_file(folder / record["tensors"]).items():
            kind, _, name = path.partition("/")
            if kind == "optimizer":
                name, _, slot = name.rpartition("/")
                moments.setdefault(name, {})[slot] = _ordered(value, orders.get(name))
            else:
                order = None if kind in ("balancer", "memory") else orders.get(name)
                parts[kind][name] = _ordered(value, order)
        put(self.network, parts["network"])
        self.balancer.load_state_dict(parts["balancer"])
        if self.memory is not None:
            self.memory.load_state_dict(parts["memory"])
        self._load_optimizer(moments, record["optimizer"])
        device = next(self.network.parameters()).device
        self.best.weights = {name: value.to(device) for name, value in parts["best"].items()}
        for name in JUDGED:
            found = record["best"][name]
            setattr(self.best, name, {k: math.inf if v is None else v for k, v in found.items()})
        for name, value in record["progress"].items():
            setattr(self.progress, name, value)

    def _slices(self) -> Iterator[tuple[str, tuple[Slice, ...]]]:
        for name, tensor in self._named():
            slices = bank_slices(tensor)
            if slices is not None:
                yield name, slices

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        return chain(self.network.named_parameters(), self.network.named_buffers())

    def _orders(self, stored: Mapping[str, list[Any]]) -> dict[str, Tensor]:
        """Where the slices of this network's stacked tensors stand in the stored ones."""
        orders, named = {}, dict(self._named())
        for name, here in self._slices():
            there = [_read(told) for told in stored.get(name, [])]
            if set(there) != set(here):
                raise ValueError(f"the checkpoint holds other tasks than the network in {name!r}")
            if tuple(there) == here:
                continue
            if task_slices(named[name]) is None:
                raise ValueError(
                    f"the checkpoint holds the tasks in another order in {name!r}, and they read "
                    "one another there; put the tasks in the order that they had"
                )
            orders[name] = torch.tensor([there.index(slice_) for slice_ in here])
        return orders

    def _names(self) -> list[str]:
        """Names of the optimizer's parameters, in its own order."""
        known = {id(p): name for name, p in self.network.named_parameters()}
        every = [p for group in self.optimizer.param_groups for p in group["params"]]
        return [known.get(id(p), f"extra.{i}") for i, p in enumerate(every)]

    def _optimizer_state(self) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
        names = self._names()
        tensors: dict[str, Tensor] = {}
        plain: dict[str, dict[str, Any]] = {}
        for place, slots in self.optimizer.state_dict()["state"].items():
            for slot, value in slots.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{names[place]}/{slot}"] = value
                elif value is not None:
                    plain.setdefault(names[place], {})[slot] = value
        return tensors, plain

    def _load_optimizer(
        self, moments: Mapping[str, dict[str, Tensor]], plain: Mapping[str, dict[str, Any]]
    ) -> None:
        # Not through load_state_dict, which changes the precision of scalars (NAdam's products).
        every = [(p, group) for group in self.optimizer.param_groups for p in group["params"]]
        self.optimizer.state.clear()
        for (parameter, group), name in zip(every, self._names(), strict=True):
            beside = group.get("capturable") or group.get("fused")
            own = isinstance(self.optimizer, RowwiseAdamW) or beside
            for slot, value in moments.get(name, {}).items():
                there = own or value.shape == parameter.shape
                device = parameter.device if there else torch.device("cpu")
                self.optimizer.state[parameter][slot] = value.to(device)
            if name in plain:
                self.optimizer.state[parameter].update(plain[name])


def _told(slice_: Slice) -> Any:
    """A slice as plain data: its task's name where it is the task's only one."""
    return slice_[0] if slice_[1:] == (None, 0) else list(slice_)


def _read(told: Any) -> Slice:
    match told:
        case [name, about, number]:
            return name, about, number
    return told, None, 0


def _whole(value: Tensor) -> Tensor:
    """A copy on the CPU with memory of its own, in order (safetensors takes no other)."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _ordered(value: Tensor, order: Tensor | None) -> Tensor:
    return value if order is None or not value.ndim else value[order]


def _finite(value: Any) -> Any:
    """Plain data as JSON has it: tuples as lists, and null for a number that is none."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
