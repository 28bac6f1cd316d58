"""A network: encoder → sharing → one head per task. One forward gives any subset of tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from plait.batch import Input, Parts, Records
from plait.data.seeding import key
from plait.kinds import KINDS, Place
from plait.losses import LOSSES
from plait.method import did_you_mean, resolve, spell
from plait.networks.base import (
    Bank,
    Encoder,
    Features,
    Sharing,
    Trunk,
    seeded,
    task_slices,
    trainers_of,
)
from plait.networks.encoder import check_places, make_encoder
from plait.networks.heads import Heads
from plait.networks.positions import Spread, at, by_place, remembering
from plait.task import Task, TaskSet


@dataclass(frozen=True)
class Outputs:
    """What a forward gives, aligned with the records asked for, by head group.

    ``raw`` [N, outputs] are the heads' numbers before any link function, [N, ..., outputs] where
    positions are labelled (``features`` then are those of the positions); ``penalties`` are
    scalars that training adds to the loss.
    """

    raw: Mapping[str, Tensor]
    features: Mapping[str, Features]
    penalties: Mapping[str, Tensor]


class Network(nn.Module):
    """A trunk and its heads. ``config`` is plain data from which an equal network can be built."""

    def __init__(self, trunk: Trunk, heads: Heads, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.tasks = heads.tasks
        self.trunk = trunk
        self.heads = heads
        self.config = dict(config)

    def forward(self, parts: Parts, asked: Mapping[str, Records]) -> Outputs:
        """Inputs and the records wanted, by head group → outputs aligned with the records."""
        groups = self.tasks.groups
        if unknown := asked.keys() - groups.keys():
            group = min(unknown)
            raise KeyError(
                f"no task of this network is of the group {group!r}{did_you_mean(group, groups)}; "
                f"its tasks are {', '.join(self.tasks.names)}"
            )
        if all(groups[group].place == "row" for group in asked):
            return self._of_rows(parts, asked)
        places = {group: groups[group].place for group in asked}
        found = Outputs({}, {}, {})
        with remembering():
            for place, own in by_place(asked, places).items():
                if place == "row":
                    more = self._of_rows(parts, own)
                else:
                    more = self._of_positions(parts, own, place)
                both = {n: found.penalties.get(n, 0) + v for n, v in more.penalties.items()}
                found = Outputs(
                    {**found.raw, **more.raw},
                    {**found.features, **more.features},
                    {**found.penalties, **both},
                )
        return found

    def _of_rows(self, parts: Parts, asked: Mapping[str, Records]) -> Outputs:
        """The outputs of tasks with one label a row."""
        chain = self.trunk.chain
        if chain is None:
            features, penalties = self.trunk(parts, asked)
            return Outputs(self.heads(features, asked), features, penalties)
        wanted = chain.wanted(asked)
        features, penalties = self.trunk(parts, wanted)
        rows = sum(len(next(iter(part.values()))) for part in parts.values())
        raw, more = chain(self.heads(features, wanted), wanted, asked, rows)
        return Outputs(raw, chain.picked(features, wanted, asked), {**penalties, **more})

    def _of_positions(self, parts: Parts, asked: Mapping[str, Records], place: Place) -> Outputs:
        """The outputs of tasks with a label for each position inside a row."""
        grid = self.encoder.grid(parts, place)
        spread = {group: Spread.of(records, grid) for group, records in asked.items()}
        wanted = {group: each.records for group, each in spread.items()}
        with at(place):
            features, penalties = self.trunk(parts, wanted)
        if place == "token":
            found = self.heads(features, wanted)
            raw = {group: each.gather(found[group]) for group, each in spread.items()}
            return Outputs(raw, features, penalties)
        size = self.encoder.canvas(parts)
        raw = {}
        for group, each in spread.items():
            maps = each.gather(features[group].records)
            raw[group] = self.heads.decode(group, maps, asked[group].task, size)
        return Outputs(raw, features, penalties)

    @property
    def encoder(self) -> Encoder:
        """The first encoder of the trunk; all of them are made alike."""
        return next(m for m in self.trunk.modules() if isinstance(m, Encoder))

    def advance(self, step: int) -> None:
        """Training is at this step; for what changes with it (a temperature)."""
        self.trunk.advance(step)

    @torch.no_grad()
    def predict(self, parts: Parts, asked: Mapping[str, Records]) -> dict[str, Tensor]:
        """Predictions as users see them, by head group and aligned with the records.

        A probability [N], class probabilities [N, C], a mean in the target's own units [N] or a
        rate [N]; where positions are labelled, [N, ...] or [N, ..., C], NaN in the padding. In
        evaluation mode, which is left as it was.
        """
        with evaluating(self):
            outputs = self(parts, asked)
        return {group: self._decoded(group, outputs.raw[group], asked[group]) for group in asked}

    def _decoded(self, key_: str, raw: Tensor, records: Records) -> Tensor:
        group = self.tasks.groups[key_]
        flat = raw.flatten(0, -2)
        found = LOSSES[group.loss].predict(flat)
        found = found.view(*raw.shape[:-1], *found.shape[1:])
        if not KINDS[group.kind].standardised:
            return found
        units = [(self.tasks[name].scale, self.tasks[name].center) for name in group.tasks]
        scale, center = torch.tensor(units, dtype=torch.float64, device=raw.device)[records.task].T
        own: Tensor = found.double() * scale + center
        return own.to(found.dtype)

    def reach(self) -> dict[str, frozenset[str]]:
        """Parameter name → the tasks whose losses train it."""
        trunk = {f"trunk.{name}": tasks for name, tasks in self.trunk.reach().items()}
        heads = {f"heads.{n}": trainers_of(p, ()) for n, p in self.heads.named_parameters()}
        return {**trunk, **heads}

    def shared_parameters(self) -> list[nn.Parameter]:
        """The trainable parameters that two or more tasks train; of a sole task, its trunk."""
        return [p for shared, p in self._split() if shared]

    def specific_parameters(self) -> list[nn.Parameter]:
        """The trainable parameters that, slice by slice, belong to one task."""
        return [p for shared, p in self._split() if not shared]

    def last_shared(self) -> list[nn.Parameter]:
        """The parameters of the last layer that all tasks share; empty where none do."""
        return self.trunk.last_shared()

    def _split(self) -> Iterator[tuple[bool, nn.Parameter]]:
        reach, several = self.reach(), min(2, len(self.tasks))
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                yield task_slices(parameter) is None and len(reach[name]) >= several, parameter

    def save_pretrained(self, folder: str | Path, frozen: str | Path | None = None) -> None:
        """Write the network into a folder: ``model.safetensors`` and a readable ``config.json``.

        The tensors of frozen parameters go to a file of their own, named by its contents, in the
        folder ``frozen`` (default: the same), so that many networks can keep one copy.
        """
        from plait.networks.saving import save

        save(self, Path(folder), Path(frozen) if frozen is not None else None)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read a network back, exactly; ``ValueError`` says what is wrong with the folder."""
        from plait.networks.saving import load

        network = load(Path(folder))
        if not isinstance(network, cls):
            raise ValueError(f"{folder} holds a {type(network).__name__}, not a {cls.__name__}")
        return network


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def build_network(
    *,
    inputs: Mapping[str, Input],
    tasks: TaskSet,
    encoder: Mapping[str, Any],
    sharing: Sharing,
    seed: int,
    priors: Mapping[str, Tensor] | None = None,
) -> Network:
    """A fresh network for these inputs and tasks.

    ``encoder`` is plain data (see ``make_encoder``); ``priors`` (see ``prior_of``) start the heads
    at the tasks' base rates. Every start is keyed by (seed, place), a task's own also by its name:
    adding or permuting tasks changes no other. Raises ``MethodError`` for a faulty encoder.
    """
    check_places(encoder, inputs, tasks)

    def make(who: str = "") -> Encoder:
        with seeded(seed, "encoder", who):
            made.append(make_encoder(encoder, inputs))
        return made[-1]

    made: list[Encoder] = []
    with seeded(seed, "sharing"):
        trunk = sharing.build(make, tasks)
    config = {
        "kind": "network",
        "inputs": inputs_to_json(inputs),
        "tasks": [task.to_json() for task in tasks],
        "encoder": made[0].spec if made else dict(encoder),
        "sharing": spell(sharing),
        "seed": seed,
    }
    trainers = None if trunk.chain is None else trunk.chain.trainers
    network = Network(trunk, Heads(tasks, trunk.width, trainers=trainers), config)
    start_banks(network, seed)
    priors = priors or {}
    network.heads.start_at(priors if trunk.chain is None else trunk.chain.priors(priors))
    return network


def start_banks(network: nn.Module, seed: int) -> None:
    """Start every bank of a network afresh, keyed by the seed and its place."""
    for path, module in network.named_modules():
        if isinstance(module, Bank):
            module.reset(key(seed, "bank"), path)


def rebuild(config: Mapping[str, Any]) -> Network:
    """A network of the same shape as the one whose ``config`` this is; its weights are a start."""
    return build_network(
        inputs=inputs_from_json(config["inputs"]),
        tasks=tasks_from_json(config["tasks"]),
        encoder=config["encoder"],
        sharing=resolve("sharing", config["sharing"]),
        seed=config["seed"],
    )


def plain_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the network beneath any adapters."""
    while "start" in config:
        config = config["start"]
    return config


def inputs_to_json(inputs: Mapping[str, Input]) -> list[dict[str, Any]]:
    """Inputs as plain data."""
    return [
        {**asdict(found), "shape": list(found.shape), "sizes": list(found.sizes)}
        for found in inputs.values()
    ]


def inputs_from_json(data: list[dict[str, Any]]) -> dict[str, Input]:
    """Read :func:`inputs_to_json` back."""
    rows = ({**row, "shape": tuple(row["shape"]), "sizes": tuple(row["sizes"])} for row in data)
    return {row["key"]: Input(**row) for row in rows}


def tasks_from_json(data: list[dict[str, Any]]) -> TaskSet:
    """Read tasks from plain data."""
    return TaskSet(Task.from_json(row) for row in data)
