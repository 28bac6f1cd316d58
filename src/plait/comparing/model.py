"""Models: what strategies make, of whatever sort, with one way to predict, save and load.

A saved model is a folder with ``model.json`` (its sort, its tasks, what was found on the way) and
the files of its sort: safetensors, JSON, the text of LightGBM; never pickle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from plait.batch import Batch, Input, Parts, Records
from plait.comparing.folders import check_format, read_object, refuse_others, sound
from plait.comparing.results import Cost
from plait.networks.frozen import features_of
from plait.networks.network import Network, inputs_from_json, plain_config
from plait.networks.transformer import Transformer
from plait.task import Task, TaskSet
from plait.weights.files import DamagedError, write_json
from plait.weights.states import AGAIN

if TYPE_CHECKING:
    from plait.data import Dataset

FORMAT = 1
Asked = Mapping[str, Records]


class Model(ABC):
    """Something that predicts any of its tasks.

    ``evidence`` is what was found on the way (a coefficient chosen on validation, the best pass),
    as plain data.
    """

    sort: ClassVar[str]

    def __init__(self, tasks: TaskSet, evidence: Mapping[str, Any] | None = None) -> None:
        self.tasks = tasks
        self.evidence = dict(evidence or {})

    @abstractmethod
    def predict(self, parts: Parts, asked: Asked) -> dict[str, Tensor]:
        """Predictions as users see them, by head group and aligned with the records asked for.

        A probability [N], class probabilities [N, C], a mean in the target's units [N] or a rate.
        """

    def reading(self, dataset: Dataset, cache: Path | None) -> Dataset:  # noqa: ARG002
        """The data set as this model reads it fastest: with frozen features in place of texts."""
        return dataset

    @abstractmethod
    def cost(self) -> Cost:
        """The parameters stored, and those active for one row."""

    @abstractmethod
    def inputs(self) -> Mapping[str, Input]:
        """The encoded inputs that it reads, by key."""

    def try_blank(self) -> None:  # noqa: B027
        """Predict a row of nothing, where only that shows whether what was read fits together."""

    @abstractmethod
    def _write(self, folder: Path, frozen: Path | None) -> dict[str, Any]:
        """Write what is the sort's own; plain data for ``model.json`` is returned."""

    @classmethod
    @abstractmethod
    def _read(cls, folder: Path, tasks: TaskSet, about: Mapping[str, Any]) -> Self:
        """Read it back."""

    def save(self, folder: Path, frozen: Path | None = None) -> None:
        """Write the model into a folder; weights that were not trained go to ``frozen``, if given,
        where many models can share one copy.
        """
        folder.mkdir(parents=True, exist_ok=True)
        own = self._write(folder, frozen)
        about = {
            "format": FORMAT,
            "sort": self.sort,
            "tasks": [task.to_json() for task in self.tasks],
            "evidence": self.evidence,
            **own,
        }
        write_json(folder / "model.json", about)


def load_model(folder: Path) -> Model:
    """Read any model back; :class:`DamagedError` says what is wrong with the folder."""
    refuse_others(folder)
    path = folder / "model.json"
    about = read_object(path)
    check_format(path, about, "format", FORMAT)
    from plait.comparing.plain.model import EstimatorModel

    sorts: dict[str, type[Model]] = {
        cls.sort: cls for cls in (NetworkModel, BundleModel, EstimatorModel)
    }
    if about.get("sort") not in sorts:
        raise DamagedError(f"{path}: no model of sort {about.get('sort')!r} is known; {AGAIN}")
    with sound(path):
        tasks = TaskSet(Task.from_json(row) for row in about["tasks"])
        model = sorts[about["sort"]]._read(folder, tasks, about)
        model.evidence = dict(about["evidence"])
        if model.tasks != tasks:
            raise DamagedError(f"{path}: its tasks are not those of the files beside it; {AGAIN}")
        model.try_blank()
    return model


class NetworkModel(Model):
    """One network for all tasks."""

    sort: ClassVar[str] = "network"

    def __init__(self, network: Network, evidence: Mapping[str, Any] | None = None) -> None:
        super().__init__(network.tasks, evidence)
        self.network = network.eval()

    def predict(self, parts: Parts, asked: Asked) -> dict[str, Tensor]:
        device = next(self.network.parameters()).device
        moved = {
            schema: {name: tensor.to(device) for name, tensor in part.items()}
            for schema, part in parts.items()
        }
        wanted = {
            group: Records(records.task.to(device), records.rows.to(device))
            for group, records in asked.items()
            if len(records)
        }
        if not wanted:
            return {}
        return {group: found.cpu() for group, found in self.network.predict(moved, wanted).items()}

    def reading(self, dataset: Dataset, cache: Path | None) -> Dataset:
        return featured(self.network, dataset, cache)

    def inputs(self) -> Mapping[str, Input]:
        return inputs_from_json(plain_config(self.network.config)["inputs"])

    def cost(self) -> Cost:
        stored = sum(parameter.numel() for parameter in self.network.parameters())
        return Cost(parameters=float(stored), active=float(stored))

    def _write(self, folder: Path, frozen: Path | None) -> dict[str, Any]:
        self.network.save_pretrained(folder / "network", frozen)
        return {}

    @classmethod
    def _read(cls, folder: Path, tasks: TaskSet, about: Mapping[str, Any]) -> Self:  # noqa: ARG003
        return cls(Network.from_pretrained(folder / "network"))


def featured(network: Network, dataset: Dataset, cache: Path | None) -> Dataset:
    """A data set with the features of the network's frozen text encoders, computed once."""
    if not any(isinstance(m, Transformer) and m.reads_features for m in network.modules()):
        return dataset
    return dataset.extra_inputs(features_of(network, dataset, cache and cache / "features"))


class BundleModel(Model):
    """Several models, each with tasks of its own.

    The tasks keep the order given; each must belong to exactly one member.
    """

    sort: ClassVar[str] = "bundle"

    def __init__(
        self, tasks: TaskSet, members: Sequence[Model], evidence: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(tasks, evidence)
        self.members = tuple(members)
        names = [name for member in self.members for name in member.tasks.names]
        if sorted(names) != sorted(tasks.names):
            raise ValueError("every task of a bundle must belong to exactly one of its members")
        _share_frozen(self.members)

    def predict(self, parts: Parts, asked: Asked) -> dict[str, Tensor]:
        total = sum(len(next(iter(part.values()))) for part in parts.values())
        found: dict[str, Tensor] = {}
        for member in self.members:
            for group, (where, values) in _delegate(
                self.tasks, member, parts, asked, total
            ).items():
                before = found.get(group)
                if before is None:
                    before = values.new_full((len(asked[group]), *values.shape[1:]), torch.nan)
                # Sequences of other rows may be longer.
                most = max(before.shape[1:], values.shape[1:])
                found[group] = before = _widened(before, most)
                before[where] = _widened(values, most)
        return found

    def reading(self, dataset: Dataset, cache: Path | None) -> Dataset:
        return self.members[0].reading(dataset, cache)

    def cost(self) -> Cost:
        """The parameters of all members; a frozen encoder that they share counts once."""
        networks = [member.network for member in self.members if isinstance(member, NetworkModel)]
        places = {p.data_ptr(): p.numel() for network in networks for p in network.parameters()}
        others = [m.cost() for m in self.members if not isinstance(m, NetworkModel)]
        stored = float(sum(places.values())) + sum(cost.parameters or 0.0 for cost in others)
        return Cost(parameters=stored, active=stored)

    def inputs(self) -> Mapping[str, Input]:
        return {key: each for member in self.members for key, each in member.inputs().items()}

    def of(self, task: str) -> Model:
        """The member that has a task."""
        return next(member for member in self.members if task in member.tasks.names)

    def _write(self, folder: Path, frozen: Path | None) -> dict[str, Any]:
        for number, member in enumerate(self.members):
            member.save(folder / "members" / str(number), frozen or folder)
        return {"members": len(self.members)}

    @classmethod
    def _read(cls, folder: Path, tasks: TaskSet, about: Mapping[str, Any]) -> Self:
        places = [folder / "members" / str(number) for number in range(about["members"])]
        lost = [place for place in places if not place.is_dir()]
        if lost:
            raise DamagedError(f"{folder}: a member is missing: {lost[0].name}; {AGAIN}")
        members = [load_model(place) for place in places]
        return cls(tasks, members)


def _widened(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Values [N, ...] with NaN behind them, up to the shape that each row is to have."""
    if values.shape[1:] == tuple(shape):
        return values
    wide = values.new_full((len(values), *shape), torch.nan)
    wide[(slice(None), *(slice(size) for size in values.shape[1:]))] = values
    return wide


def _share_frozen(members: Sequence[Model]) -> None:
    """Let networks with equal frozen tensors hold one copy of them."""
    kept: dict[str, torch.nn.Parameter] = {}
    for member in members:
        if isinstance(member, NetworkModel):
            for name, parameter in member.network.named_parameters():
                if not parameter.requires_grad:
                    first = kept.setdefault(name, parameter)
                    if first is not parameter and torch.equal(first, parameter):
                        parameter.data = first.data


def _delegate(
    tasks: TaskSet, member: Model, parts: Parts, asked: Asked, total: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """A member's predictions by head group, with the positions they fill among those asked for."""
    mine: dict[str, Records] = {}
    where: dict[str, Tensor] = {}
    for group, records in asked.items():
        if group not in member.tasks.groups:
            continue
        own = member.tasks.groups[group].position
        place = torch.tensor([own.get(name, -1) for name in tasks.groups[group].tasks])
        positions = place[records.task]
        keep = torch.nonzero(positions >= 0)[:, 0]
        # A member's order of tasks may differ, and records are sorted by task.
        order = torch.argsort(positions[keep], stable=True)
        where[group] = keep[order]
        mine[group] = Records(positions[keep][order], records.rows[keep][order])
    wanted = {group: records for group, records in mine.items() if len(records)}
    if not wanted:
        return {}
    rows = torch.unique(torch.cat([records.rows for records in wanted.values()]))
    if len(rows) < total:
        parts, wanted = cut(parts, wanted, rows, total)
    return {g: (where[g], values) for g, values in member.predict(parts, wanted).items()}


def cut(parts: Parts, asked: Asked, rows: Tensor, total: int) -> tuple[Parts, dict[str, Records]]:
    """The parts and records restricted to the given rows, ascending; all records must be there."""
    place = torch.full((total,), -1, dtype=torch.long)
    place[rows] = torch.arange(len(rows))
    kept, start = {}, 0
    for schema, part in parts.items():
        length = len(next(iter(part.values())))
        mine = rows[(rows >= start) & (rows < start + length)] - start
        if len(mine):
            kept[schema] = {name: tensor[mine] for name, tensor in part.items()}
        start += length
    moved = {group: replace(records, rows=place[records.rows]) for group, records in asked.items()}
    return kept, moved


def asked_of(batch: Batch) -> dict[str, Records]:
    """The labels of a batch as a question: their tasks and rows, without the targets."""
    return {g: Records(labels.task, labels.rows) for g, labels in batch.labels.items()}
