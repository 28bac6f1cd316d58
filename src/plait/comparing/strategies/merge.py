"""Merge the trunks of one expert per task into one, and keep every task's own head.

The experts come from one common start θ₀, which is the merge's base. Integer tensors and frozen
parts are the base's; what the merger leaves free is chosen by the mean validation loss over tasks
of the merged network with the experts' heads. Mergers that look at data are shown training rows of
the tasks, or validation rows where they ask for those; never test rows. Tasks that are served by
tensors of their own (masks, rescalers) become a bundle of one network for each.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from plait.comparing.apart import network_of
from plait.comparing.bench import NetworkBench
from plait.comparing.building import copy_heads, fresh, validation_loss
from plait.comparing.changed import changed
from plait.comparing.model import BundleModel, Model, NetworkModel
from plait.comparing.plan import Plan
from plait.comparing.strategy import Started, Strategy
from plait.merging.base import Have
from plait.merging.pool import Pool
from plait.method import Card, Method, Need, resolve
from plait.networks import Network
from plait.training.train import device_of
from plait.weights.sources import State


@dataclass(frozen=True, kw_only=True)
class Merge(Started):
    """Merge experts by ``method``; ``start`` is where they begin."""

    card: ClassVar[Card] = Card(
        family="strategy",
        name="merge",
        summary="one network merged from one expert per task, heads kept",
        needs=frozenset({Need.LABELLED}),
    )
    parts: ClassVar[Mapping[str, str]] = {"method": "merging"}
    inline: ClassVar[str | None] = "method"
    method: Method | str = "task_arithmetic"

    def words(self) -> str:
        """What it is."""
        return f"one network merged from one expert per task ({self._merger().card.name})"

    def requires(self, plan: Plan) -> Mapping[str, Strategy]:
        """The common start and the experts."""
        experts: Strategy = resolve("strategy", {"experts": {"start": self.start}})
        return {**Started.requires(self, plan), "experts": experts}

    def check(self, plan: Plan) -> None:
        """The start must exist, and the merger must be able to look at the tasks."""
        super().check(plan)
        try:
            self._merger().admit({task.name: task.loss for task in plan.tasks})
        except ValueError as error:
            raise ValueError(f"{self.card.name}: {error}") from error

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:  # noqa: ARG002
        """Merge in memory."""
        names = plan.tasks.names
        target = copy.deepcopy(network_of(parts["start"], names[0]))
        target.to(device_of(plan.training.device))
        base = state_of(target)
        experts: dict[str, State] = {}
        for name in names:
            network = network_of(parts["experts"], name)
            experts[name] = state_of(network)
            copy_heads(network, target)

        def judge(state: State) -> float:
            load_state(target, state)
            return validation_loss(plan, target)

        held = sum(plan.dataset.counts("valid").values())
        have = Have(
            validation=judge if held else None,
            bench=NetworkBench(plan, target),
            held=NetworkBench(plan, target, "valid") if held else None,
        )
        merger = self._merger()
        merged = merger.merge(Pool(experts, base), have)
        spent = int(parts["start"].evidence["passes"]) + int(parts["experts"].evidence["best_pass"])
        found = {**merged.evidence, "best_pass": spent}
        if merged.tasks:  # every task is served by tensors of its own
            members = [_served(network_of(parts["experts"], n), merged.tasks[n]) for n in names]
            return BundleModel(plan.tasks, members, found)
        if merged.change is None:
            load_state(target, merged.tensors)
        else:
            target = changed(target, merger, list(names), merged.change)
        return NetworkModel(target, found)

    def settled(self, found: Mapping[str, Any]) -> Merge:
        """With the coefficient that validation chose."""
        merger = self._merger()
        if "scale" not in found or "scale" not in type(merger).accepted():
            return self
        return replace(self, method=replace(merger, scale=found["scale"]))

    def _merger(self) -> Any:
        return fresh("merging", self.method)


def _served(expert: Network, state: State) -> NetworkModel:
    """A task's network: the expert's head on the tensors that the merge serves the task with."""
    network = copy.deepcopy(expert)
    load_state(network, state)
    return NetworkModel(network)


def state_of(network: Network) -> State:
    """The trunk's tensors as arrays, without those that are frozen."""
    frozen = {name for name, p in network.trunk.named_parameters() if not p.requires_grad}
    return {
        name: tensor.detach().cpu().numpy().copy()
        for name, tensor in network.trunk.state_dict().items()
        if name not in frozen
    }


@torch.no_grad()
def load_state(network: Network, state: State) -> None:
    """Put arrays into the trunk."""
    own = network.trunk.state_dict(keep_vars=True)
    for name, value in state.items():
        own[name].copy_(torch.from_numpy(value))
