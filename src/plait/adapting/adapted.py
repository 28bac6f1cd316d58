"""A frozen network with adapters: each (row, task) pair that is asked for runs through it once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from plait.adapting.base import Adapted, Adapter, SiteBank, outermost
from plait.adapting.routing import Routing
from plait.batch import Part, Parts, Records
from plait.losses import LOSSES
from plait.method import resolve, spell
from plait.networks.base import Encoder, Features, Trunk, seeded
from plait.networks.heads import Heads
from plait.networks.network import Network, Outputs, start_banks
from plait.networks.saving import rebuild as rebuild_start
from plait.networks.stems import Stem
from plait.networks.transformer import Transformer


class AdaptedTrunk(Trunk):
    """A frozen trunk run with each record's task routed to the adapters inside.

    Only ``banks`` train, and what the adapter thaws, be it all. The frozen part stays in evaluation
    mode, so a task's outputs depend on its own slices and what is shared. On an adapted trunk the
    adapter is a second stage: it takes the place of the first, whose ``trained`` banks are frozen.
    """

    def __init__(self, start: Trunk, adapter: Adapter) -> None:
        super().__init__(start.tasks, start.width)
        for task in start.tasks:
            if task.place != "row":
                raise ValueError(
                    f"adapters route whole rows, and task {task.name!r} labels positions in them; "
                    "train it with joint or separate"
                )
        first = start if isinstance(start, AdaptedTrunk) else None
        _check_stages(first, adapter)
        self.adapter = adapter
        self.base: Trunk = first.base if first else start
        self.trained: nn.ModuleDict = first.banks if first else nn.ModuleDict()
        self.base.requires_grad_(adapter.whole)
        self.trained.requires_grad_(False)
        self.chain = start.chain
        self.routing = Routing()
        sites = adapter.choose(self.base)
        self.banks: nn.ModuleDict = adapter.attach(sites, start.tasks, self.routing)
        for path, module in self.base.named_modules():
            if isinstance(module, Encoder | Stem):
                module.among = self.routing.among
            if isinstance(module, Adapted):
                module.routing = self.routing  # those of a first stage had its own
            if isinstance(module, Transformer):
                inside = any(site.path.startswith(f"{path}.") for site in sites)
                module.frozen = not adapter.whole
                module.reads_features = module.frozen and module.reads_features and not inside
                if module.checkpointing and (inside or adapter.whole):
                    module.checkpoint(context_fn=self.routing.contexts)

    def train(self, mode: bool = True) -> AdaptedTrunk:
        """Set the adapters' training mode; the frozen part stays in evaluation mode."""
        super().train(mode)
        if self.adapter.whole:
            return self
        self.base.eval()
        self.trained.eval()
        for module in self.base.modules():
            # transformers checkpoints training blocks only; the flag of a block reaches no dropout
            if getattr(module, "gradient_checkpointing", False):
                module.training = mode
        return self

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        return self._run(parts, asked, first=False)

    @torch.no_grad()
    def of_first(self, parts: Parts, asked: Mapping[str, Records]) -> dict[str, Features]:
        """The features with the adapters of the first stage, as they were trained."""
        return self._run(parts, asked, first=True)[0]

    def _run(
        self, parts: Parts, asked: Mapping[str, Records], *, first: bool
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
        present = torch.zeros(len(self.tasks), dtype=torch.bool, device=task.device)
        present = present.index_fill(0, task, True)
        own = _site_banks(self.trained if first else self.banks)
        made = {bank: value for bank in own if (value := bank.once(present)) is not None}
        with self.routing.to(task[order], made, first=first) as route:
            features, penalties = self.base(pairs, moved)
        return features, {**penalties, **route.penalties, **self._penalties(present)}

    def reach(self) -> dict[str, frozenset[str]]:
        """As any trunk; of a network that trains as a whole what it says itself."""
        own = self.base.reach() if self.adapter.whole else {}
        return {**super().reach(), **{f"base.{name}": tasks for name, tasks in own.items()}}

    @property
    def own(self) -> list[SiteBank]:
        """The banks, and what they share where it is one."""
        return _site_banks(self.banks)

    def advance(self, step: int) -> None:
        """Training is at this step."""
        for bank in _site_banks(self.banks):
            bank.advance(step)

    def _penalties(self, present: Tensor) -> dict[str, Tensor]:
        each = [bank.penalty(present) for bank in self.own]
        found = [one for one in each if one is not None]
        return {self.adapter.card.name: torch.stack(found).sum()} if found else {}

    @contextmanager
    def folded(self, task: str) -> Iterator[None]:
        """Inside, one task's adapters are part of the weights, which costs nothing to run.

        Only that task may be asked for. Afterwards the weights are what they were, bit for bit.
        Raises ``KeyError`` for an unknown task, ``ValueError`` for adapters that cannot be folded.
        """
        position = self.tasks.position[self.tasks[task].name]
        done: list[Adapted] = []
        try:
            for layer in outermost(self.base).values():
                layer.fold(position)
                done.append(layer)
            yield
        finally:
            for layer in done:
                layer.unfold()


class TaughtNetwork(Network):
    """An adapted network that the first stage teaches while the second trains.

    With a(r) for each record how much else it says than the teacher, by its task's loss, and how
    far its features are, the penalty is ``share`` · Σ_tasks mean a.
    """

    def __init__(
        self, trunk: AdaptedTrunk, heads: Heads, config: Mapping[str, Any], share: float
    ) -> None:
        super().__init__(trunk, heads, config)
        self.share = share
        self.teacher = copy.deepcopy(heads).requires_grad_(False)

    def forward(self, parts: Parts, asked: Mapping[str, Records]) -> Outputs:
        """As any network; in training with what differs from the teacher as a penalty."""
        found = super().forward(parts, asked)
        if not self.training:
            return found
        assert isinstance(self.trunk, AdaptedTrunk)
        features = self.trunk.of_first(parts, asked)
        said = self.teacher(features, asked)
        total = torch.zeros((), device=next(self.parameters()).device)
        for group, records in asked.items():
            loss = LOSSES[self.tasks.groups[group].loss]
            moved = found.features[group].records - features[group].records
            apart = loss.divergence(found.raw[group], said[group]) + moved.square().mean(1)
            count = torch.bincount(records.task, minlength=1)
            total = total + (apart / count[records.task]).sum()
        return replace(found, penalties={**found.penalties, "teacher": self.share * total})


def _site_banks(banks: nn.ModuleDict) -> list[SiteBank]:
    """The banks, and what they share where it is one."""
    return [bank for bank in banks.values() if isinstance(bank, SiteBank)]


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


def _check_stages(first: AdaptedTrunk | None, adapter: Adapter) -> None:
    name, needed = adapter.card.name, adapter.trained_on
    if needed is None and first is not None:
        raise ValueError(
            f"{name} adapts a plain network, and this one has {first.adapter.card.name} inside; "
            "give the network that it was built from"
        )
    if needed is not None and (first is None or type(first.adapter) is not type(needed)):
        found = f"one with {first.adapter.card.name}" if first else "a plain one"
        raise ValueError(
            f"{name} is a second stage: it needs a network with trained {needed.card.name} "
            f"adapters, and this is {found}"
        )


def build_adapted(network: Network, adapter: Adapter, seed: int) -> Network:
    """A copy of a network, frozen, with an adapter for each task; only adapters and heads train.

    The heads start as the network's own. An adapter of two stages takes the network of its first.
    Raises ``ValueError`` where the adapter's sites match nothing, or a stage is missing.
    """
    start = copy.deepcopy(network)
    config = {
        "kind": "adapted",
        "start": network.config,
        "adapter": spell(adapter),
        "seed": seed,
    }
    with seeded(seed, "adapter"):
        trunk = AdaptedTrunk(start.trunk, adapter)
    start_banks(trunk.banks, seed)
    if adapter.taught:
        if trunk.chain is not None:
            raise ValueError(f"{adapter.card.name} cannot teach tasks that come after one another")
        taught = TaughtNetwork(trunk, start.heads, config, adapter.taught)
        return taught.train(network.training)
    return Network(trunk, start.heads, config).train(network.training)


def rebuild(config: Mapping[str, Any]) -> Network:
    """A network of the same shape as the one whose ``config`` this is."""
    adapter = resolve("adapting", config["adapter"])
    return build_adapted(rebuild_start(config["start"]), adapter, config["seed"])
