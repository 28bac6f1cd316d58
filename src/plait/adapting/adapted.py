"""A frozen network with adapters: each (row, task) pair that is asked for runs through it once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from plait.adapting.base import AdaptedLayer, Adapter, Routing
from plait.batch import Part, Parts, Records
from plait.method import resolve, spell
from plait.networks.base import Encoder, Features, Trunk
from plait.networks.network import Network, start_banks
from plait.networks.saving import rebuild as rebuild_start
from plait.networks.stems import Stem
from plait.networks.transformer import Transformer


class AdaptedTrunk(Trunk):
    """A frozen trunk run with each record's task routed to the adapters inside.

    Only ``banks`` train. The frozen part stays in evaluation mode, so a task's outputs depend on
    its own slices and nothing else.
    """

    def __init__(self, start: Trunk, adapter: Adapter) -> None:
        super().__init__(start.tasks, start.width)
        self.base, self.chain = start.requires_grad_(False), start.chain
        self.routing = Routing()
        sites = adapter.choose(start)
        self.banks = adapter.attach(sites, start.tasks, self.routing)
        for path, module in start.named_modules():
            if isinstance(module, Encoder | Stem):
                module.among = self.routing.among
            if isinstance(module, Transformer):
                inside = any(site.path.startswith(f"{path}.") for site in sites)
                module.frozen = True
                module.reads_features = module.reads_features and not inside
                if module.checkpointing and inside:
                    module.checkpoint(context_fn=self.routing.contexts)

    def train(self, mode: bool = True) -> AdaptedTrunk:
        """Set the adapters' training mode; the frozen part stays in evaluation mode."""
        super().train(mode)
        self.base.eval()
        for module in self.base.modules():
            # transformers checkpoints training blocks only; the flag of a block reaches no dropout
            if getattr(module, "gradient_checkpointing", False):
                module.training = mode
        return self

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        task = torch.cat([self.positions(group, records) for group, records in asked.items()])
        rows = torch.cat([records.rows for records in asked.values()])
        pairs, order = _pairs(parts, rows)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        pieces = torch.split(place, [len(records) for records in asked.values()])
        moved = {
            group: Records(records.task, piece)
            for (group, records), piece in zip(asked.items(), pieces, strict=True)
        }
        with self.routing.to(task[order]):
            found: tuple[dict[str, Features], dict[str, Tensor]] = self.base(pairs, moved)
        return found

    @contextmanager
    def folded(self, task: str) -> Iterator[None]:
        """Inside, one task's adapters are part of the weights, which costs nothing to run.

        Only that task may be asked for. Afterwards the weights are what they were, bit for bit.
        Raises ``KeyError`` for an unknown task, ``ValueError`` for adapters that cannot be folded.
        """
        position = self.tasks.position[self.tasks[task].name]
        layers = [found for found in self.base.modules() if isinstance(found, AdaptedLayer)]
        if len(layers) != len(self.banks):
            raise ValueError("these adapters read their input and cannot be folded into weights")
        done = []
        try:
            for layer in layers:
                layer.fold(position)
                done.append(layer)
            yield
        finally:
            for layer in done:
                layer.unfold()


def _pairs(parts: Parts, rows: Tensor) -> tuple[dict[str, Part], Tensor]:
    """The parts with one row for each record [N], and the records in the order of their rows."""
    if len(parts) == 1:
        ((schema, part),) = parts.items()
        pairs = {name: value.index_select(0, rows) for name, value in part.items()}
        return {schema: pairs}, torch.arange(len(rows), device=rows.device)
    found: dict[str, Part] = {}
    order, start = [], 0
    for schema, part in parts.items():
        length = len(next(iter(part.values())))
        mine = torch.nonzero((rows >= start) & (rows < start + length)).flatten()
        if len(mine):
            local = rows[mine] - start
            found[schema] = {name: value.index_select(0, local) for name, value in part.items()}
            order.append(mine)
        start += length
    return found, torch.cat(order)


def build_adapted(network: Network, adapter: Adapter, seed: int) -> Network:
    """A copy of a network, frozen, with an adapter for each task; only adapters and heads train.

    The heads start as the network's own. Raises ``ValueError`` where the adapter's sites match
    nothing.
    """
    start = copy.deepcopy(network)
    config = {
        "kind": "adapted",
        "start": network.config,
        "adapter": spell(adapter),
        "seed": seed,
    }
    trunk = AdaptedTrunk(start.trunk, adapter)
    start_banks(trunk.banks, seed)
    return Network(trunk, start.heads, config).train(network.training)


def rebuild(config: Mapping[str, Any]) -> Network:
    """A network of the same shape as the one whose ``config`` this is."""
    adapter = resolve("adapting", config["adapter"])
    return build_adapted(rebuild_start(config["start"]), adapter, config["seed"])
