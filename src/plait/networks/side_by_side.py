"""Many separate networks as one: every parameter stacked by task, one batched forward.

Task t's encoder is slice t of [T, ...] weights, run under ``torch.vmap``. The result equals T
networks run one by one, at a fraction of the time where networks are small and tasks are many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from plait.batch import Input, Part, Parts, Records
from plait.method import resolve
from plait.networks.base import Encoder, Features, TaskBank, Trunk, escape, seeded
from plait.networks.encoder import STEMS, check_encoder, make_encoder
from plait.networks.heads import Heads
from plait.networks.network import (
    Network,
    build_network,
    inputs_from_json,
    inputs_to_json,
    start_banks,
    tasks_from_json,
)
from plait.networks.routing import followed
from plait.networks.stems import Bag
from plait.task import TaskSet

UNSTACKED = {"module", "settings", "transformer", "attention", "pyramid", "vit"}
ALONE = "transformers, sparse tables and modules of your own cannot run side by side"
ROWS = 4096  # most rows run at once, which bounds the memory of a forward over all tasks


class SideBySide(Network):
    """A network for each task and nothing shared; ``alone`` takes one out."""

    trunk: SideBySideTrunk

    @torch.no_grad()
    def alone(self, task: str) -> Network:
        """The network of one task, which predicts what it predicted here.

        Raises ``KeyError`` for an unknown task.
        """
        tasks = TaskSet([self.tasks[task]])
        network = build_network(
            inputs=inputs_from_json(self.config["inputs"]),
            tasks=tasks,
            encoder=self.config["encoder"],
            sharing=resolve("sharing", "plait.sharing.hard:Hard"),
            seed=self.config["seed"],
        )
        network.to(next(self.parameters()))
        place = self.tasks.position[task]
        stacked = dict(self.trunk.bank.named_parameters())
        for name, parameter in network.trunk.named_parameters():
            parameter.copy_(stacked[name][place])
        group = self.tasks.groups[self.tasks[task].group]
        heads = dict(self.heads.banks[escape(group.key)].named_parameters())
        for name, parameter in network.heads.banks[escape(group.key)].named_parameters():
            parameter.copy_(heads[name][group.position[task]].unsqueeze(0))
        return network.train(self.training)


class SideBySideTrunk(Trunk):
    """T encoders of one shape, their parameters stacked in the task's order."""

    def __init__(self, encoders: Sequence[Encoder], tasks: TaskSet) -> None:
        super().__init__(tasks, encoders[0].width)
        if not stacks(encoders[0]):
            raise ValueError(ALONE)
        self.bank = EncoderBank(_stacked(encoders), tasks.names)

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        task = torch.cat([self.positions(group, records) for group, records in asked.items()])
        rows = torch.cat([records.rows for records in asked.values()])
        if followed():
            return self._followed(parts, asked), {}
        if not len(rows):
            nothing = next(self.parameters()).new_zeros(0, self.width)
            return {group: Features(nothing) for group in asked}, {}
        places, found, start = [], [], 0
        for part in parts.values():
            length = len(next(iter(part.values())))
            mine = torch.nonzero((rows >= start) & (rows < start + length)).flatten()
            if len(mine):
                mine = mine[torch.argsort(task[mine], stable=True)]
                places.append(mine)
                found.append(self._encode(part, task[mine], rows[mine] - start))
            start += length
        back = torch.empty_like(rows)
        back[torch.cat(places)] = torch.arange(len(rows), device=rows.device)
        values = torch.cat(found).index_select(0, back)
        sizes = [len(records) for records in asked.values()]
        pieces = zip(asked, torch.split(values, sizes), strict=True)
        return {group: Features(piece) for group, piece in pieces}, {}

    def every(self, parts: Parts) -> Tensor:
        """Every encoder on all rows, [T, B, width]."""
        weights: dict[str, Tensor] = dict(self.bank.encoder.named_parameters())
        if not weights:
            alone: Tensor = self.bank.encoder(parts)
            return alone.expand(len(self.tasks), *alone.shape)
        if followed():
            return torch.stack([
                functional_call(self.bank.encoder, {n: w[t] for n, w in weights.items()}, (parts,))
                for t in range(len(self.tasks))
            ])  # fmt: skip
        run = torch.vmap(self._one, in_dims=(0, None), randomness="different")
        return torch.cat([run(weights, dict(part)) for part in parts.values()], dim=1)

    def _followed(self, parts: Parts, asked: Mapping[str, Records]) -> dict[str, Features]:
        """A graph has room for any records."""
        each = self.every(parts)
        values, rows = each.flatten(0, 1), each.shape[1]
        places = {
            g: self.positions(g, records) * rows + records.rows for g, records in asked.items()
        }
        return {group: Features(values, place) for group, place in places.items()}

    def _encode(self, part: Part, task: Tensor, rows: Tensor) -> Tensor:
        """Rows of a part, each by its task's encoder; tasks ascending. [N, width]."""
        present, local, counts = torch.unique_consecutive(
            task, return_inverse=True, return_counts=True
        )
        most = int(counts.max())
        column = torch.arange(len(task), device=task.device) - (counts.cumsum(0) - counts)[local]
        grid = rows.new_zeros(len(present), most).index_put((local, column), rows)
        inputs = {
            name: value.index_select(0, grid.flatten()).view(*grid.shape, *value.shape[1:])
            for name, value in part.items()
        }
        weights: dict[str, Tensor] = dict(self.bank.encoder.named_parameters())
        if len(present) < len(self.tasks):
            weights = {name: w.index_select(0, present) for name, w in weights.items()}
        # Chunks cost a copy of the weights' gradients, so they are used only where needed.
        chunk = None if grid.numel() <= ROWS else max(1, ROWS // most)
        run = torch.vmap(self._one, randomness="different", chunk_size=chunk)
        found: Tensor = run(weights, inputs)
        return found.flatten(0, 1).index_select(0, local * most + column)

    def _one(self, weights: Mapping[str, Tensor], part: Part) -> Tensor:
        found: Tensor = functional_call(self.bank.encoder, dict(weights), ({"part": part},))
        return found


class EncoderBank(TaskBank):
    """An encoder whose parameters are stacks [T, ...]."""

    def __init__(self, encoder: Encoder, names: Sequence[str]) -> None:
        super().__init__(names)
        self.encoder = encoder
        self.mark()


def _stacked(encoders: Sequence[Encoder]) -> Encoder:
    """The first encoder with every parameter replaced by all encoders' own, [T, ...]."""
    every = [dict(encoder.named_parameters()) for encoder in encoders]
    for path, module in encoders[0].named_modules():
        for name, _ in list(module.named_parameters(recurse=False)):
            stack = torch.stack([own[f"{path}.{name}".lstrip(".")].detach() for own in every])
            if isinstance(module, nn.Linear) and name == "weight":
                # A batched product gives its gradient transposed; so laid out, it is not copied.
                stack = stack.transpose(1, 2).contiguous().transpose(1, 2)
            setattr(module, name, nn.Parameter(stack))
        if isinstance(module, Bag):
            module.stacked = True
    return encoders[0]


def build_side_by_side(
    *,
    inputs: Mapping[str, Input],
    tasks: TaskSet,
    encoder: Mapping[str, Any],
    seed: int,
    priors: Mapping[str, Tensor] | None = None,
) -> SideBySide:
    """Separate networks for the tasks, run together; each start is keyed by (seed, task name).

    Raises ``ValueError`` for an encoder that cannot be stacked, ``MethodError`` for a faulty one.
    """
    if not stackable(encoder, inputs):
        raise ValueError(ALONE)
    encoders = []
    for task in tasks.names:
        with seeded(seed, "encoder", task):
            encoders.append(make_encoder(encoder, inputs))
    config = {
        "kind": "side_by_side",
        "inputs": inputs_to_json(inputs),
        "tasks": [task.to_json() for task in tasks],
        "encoder": encoders[0].spec,
        "seed": seed,
    }
    trunk = SideBySideTrunk(encoders, tasks)
    network = SideBySide(trunk, Heads(tasks, trunk.width), config)
    start_banks(network, seed)
    network.heads.start_at(priors or {})
    return network


def stackable(
    encoder: Mapping[str, Any], inputs: Mapping[str, Input], tasks: TaskSet | None = None
) -> bool:
    """Whether networks with this encoder, for these tasks, can run side by side."""
    check_encoder(encoder)
    if "module" in encoder or (tasks and any(t.place != "row" for t in tasks)):
        return False
    used = [encoder.get(kind) for kind in STEMS if any(i.type == kind for i in inputs.values())]
    return not any(map(_unstacked, used))


def stacks(encoder: Encoder) -> bool:
    """Whether encoders such as this one can run side by side."""
    spec = encoder.spec
    return "module" not in spec and not any(map(_unstacked, spec.values()))


def _unstacked(stem: Any) -> bool:
    """Whether a stem, as it is spelled, has no stacked form; stacked tables are never sparse."""
    if not isinstance(stem, Mapping):
        return stem in UNSTACKED
    settings = [each for each in stem.values() if isinstance(each, Mapping)]
    return bool(UNSTACKED & set(stem)) or any(each.get("sparse") for each in settings)


def rebuild(config: Mapping[str, Any]) -> SideBySide:
    """A network of the same shape as the one whose ``config`` this is."""
    return build_side_by_side(
        inputs=inputs_from_json(config["inputs"]),
        tasks=tasks_from_json(config["tasks"]),
        encoder=config["encoder"],
        seed=config["seed"],
    )
