"""Merge the trunks of one expert per task into one, and keep every task's own head.

The experts come from one common start θ₀, which is the merge's base. Integer tensors and frozen
parts are the base's; what the merger leaves free is chosen by the mean validation loss over tasks
of the merged network with the experts' heads. Mergers that look at data are shown training rows of
the tasks, or validation rows where they ask for those; never test rows. Tasks that are served by
tensors of their own (masks, rescalers) become a bundle of one network for each. With ``adapters``
the experts are the tasks' adapters of one ``adapt``, each as the change that it makes to the
weights: low-rank ones are merged as B·A. Experts that the study is given as folders stand in for
those that would be trained, and their base for the start.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from plait.adapting.editing import folded_weights
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
from plait.networks.transformer import Transformer
from plait.training.train import device_of
from plait.weights.sources import State


@dataclass(frozen=True, kw_only=True)
class Merge(Started):
    """Merge experts by ``method``; ``start`` is where they begin.

    ``adapters`` are those that are merged in place of whole experts.
    """

    card: ClassVar[Card] = Card(
        family="strategy",
        name="merge",
        summary="one network merged from one expert per task, heads kept",
        needs=frozenset({Need.LABELLED}),
    )
    parts: ClassVar[Mapping[str, str]] = {"method": "merging", "adapters": "adapting"}
    inline: ClassVar[str | None] = "method"
    method: Method | str = "task_arithmetic"
    adapters: Method | str | None = None

    def words(self) -> str:
        """What it is."""
        name = self._merger().card.name
        if self.adapters is not None:
            kind = fresh("adapting", self.adapters).card.name
            return f"one network merged from the {kind} adapters of all tasks ({name})"
        return f"one network merged from one expert per task ({name})"

    def requires(self, plan: Plan) -> Mapping[str, Strategy]:
        """The common start and the experts, or the adapters."""
        spelled: Any = {"experts": {"start": self.start}}
        if self.adapters is not None:
            spelled = {"adapt": {"method": self.adapters, "start": self.start}}
        experts: Strategy = resolve("strategy", spelled)
        return {**Started.requires(self, plan), "experts": experts}

    def check(self, plan: Plan) -> None:
        """The start must exist, and the merger must be able to look at the tasks."""
        super().check(plan)
        if plan.experts is not None and self.adapters is None and self.start == "warm_up":
            raise ValueError(
                "merge: the experts of this study begin at their base; leave start: warm_up out"
            )
        try:
            self._merger().admit({task.name: task.loss for task in plan.tasks})
        except ValueError as error:
            raise ValueError(f"{self.card.name}: {error}") from error

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:  # noqa: ARG002
        """Merge in memory."""
        names = plan.tasks.names
        target = copy.deepcopy(network_of(parts["start"], names[0]))
        target.to(device_of(plan.training.device))
        base, experts = self._pool(target, parts["experts"])

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
        spent = int(parts["experts"].evidence["best_pass"])
        if self.adapters is None:  # adapters count those of the start
            spent += int(parts["start"].evidence["passes"])
        found = {**merged.evidence, "best_pass": spent}
        if merged.tasks and self.adapters is not None:
            raise ValueError(
                f"merge: {merger.card.name} serves every task with tensors of its own, as adapters "
                "do unmerged; leave adapters out, or use adapt"
            )
        if merged.tasks:  # every task is served by tensors of its own
            members = [_served(network_of(parts["experts"], n), merged.tasks[n]) for n in names]
            return BundleModel(plan.tasks, members, found)
        if merged.change is None:
            load_state(target, merged.tensors)
        else:
            target = changed(target, merger, list(names), merged.change)
        return NetworkModel(target, found)

    def _pool(self, target: Network, made: Model) -> tuple[State, dict[str, State]]:
        """The base and the experts; ``target`` gets their heads."""
        names = target.tasks.names
        if self.adapters is None:
            networks = {name: network_of(made, name) for name in names}
            for network in networks.values():
                copy_heads(network, target)
            return state_of(target), {name: state_of(one) for name, one in networks.items()}
        adapted = network_of(made, names[0])
        copy_heads(adapted, target)
        frozen, own = folded_weights(adapted)
        for module in target.modules():
            if isinstance(module, Transformer):
                module.reads_features = False  # its features are of the weights before
        return arrays(frozen), {name: arrays(state) for name, state in own.items()}

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
    return arrays({n: t for n, t in network.trunk.state_dict().items() if n not in frozen})


def arrays(tensors: Mapping[str, torch.Tensor]) -> State:
    """Tensors as arrays of their own."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}


@torch.no_grad()
def load_state(network: Network, state: State) -> None:
    """Put arrays into the trunk."""
    own = network.trunk.state_dict(keep_vars=True)
    for name, value in state.items():
        own[name].copy_(torch.from_numpy(value))
