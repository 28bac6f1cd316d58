"""Training a network for each task: many small ones side by side, few or large ones in turn.

A task's network starts from (seed, task name) and sees its own rows in an order keyed by the same,
so it is the same network whichever other tasks there are and whichever way they are run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from plait.comparing.building import (
    copy_heads,
    make_network,
    own_feed,
    own_steps,
    train_network,
    transplant,
)
from plait.comparing.model import BundleModel, Model, NetworkModel, load_model
from plait.comparing.plan import Plan
from plait.comparing.timing import seconds_of
from plait.data.seeding import key
from plait.networks import Network
from plait.networks.heads import priors_of
from plait.networks.side_by_side import SideBySide, build_side_by_side, stackable
from plait.weights.files import publish, published

FEW = 4  # from so many tasks on, small networks are run side by side


@dataclass(frozen=True, kw_only=True)
class Apart:
    """How the tasks of a plan are trained apart; ``start`` is the network they all begin as."""

    plan: Plan
    seed: int
    start: Network | None = None
    passes: int | None = None

    def run(self, folder: Path) -> BundleModel:
        """Train every task's network; what a killed run had finished is read back."""
        members: list[Model] = []
        for number, (names, steps) in enumerate(self.buckets()):
            members.append(self._member(folder, number, names, steps))
        passes = [member.evidence["best_pass"] for member in members]
        weights = [len(member.tasks) for member in members]
        found = {"best_pass": round(float(np.average(passes, weights=weights)))}
        return BundleModel(self.plan.tasks, members, found)

    def buckets(self) -> list[tuple[list[str], int]]:
        """The tasks that are run together, with their steps a pass."""
        counts = self.plan.dataset.counts("train")
        steps = {name: own_steps(self.plan, counts[name]) for name in counts if counts[name]}
        if not batched(self.plan):
            return [([name], count) for name, count in steps.items()]
        alike: dict[int, list[str]] = {}
        for name, count in steps.items():
            alike.setdefault(count, []).append(name)
        return [(names, count) for count, names in sorted(alike.items())]

    def network(self, names: Sequence[str]) -> Network:
        """The network of one task, or of several side by side, before training."""
        dataset = self.plan.dataset
        priors = {k: v for k, v in priors_of(dataset).items() if k in names}
        if not stackable(self.plan.encoder, dataset.inputs, dataset.tasks):
            (name,) = names
            network = make_network(self.plan, key(self.seed, "separate", name), tasks=names)
        else:
            stacked = build_side_by_side(
                inputs=dataset.inputs,
                tasks=dataset.tasks.subset(names),
                encoder=self.plan.located,
                seed=self.seed,
                priors=priors,
            )
            network = stacked if len(names) > 1 else stacked.alone(names[0])
        if self.start is not None:
            begin_at(self.start, network)
        return network

    def _member(self, folder: Path, number: int, names: list[str], steps: int) -> Model:
        done = folder / "done" / str(number)
        if published(done):
            return load_model(done)
        network = self.network(names)
        found = train_network(
            self.plan,
            network,
            self.seed,
            folder / "training" / str(number),
            passes=self.passes,
            feed=own_feed(self.plan, network, self.seed, steps),
            per_task=isinstance(network, SideBySide),
        )
        member = NetworkModel(network, found)
        member.save(done, folder / "frozen")
        publish(done)
        return member

    def seconds(self) -> float:
        """About how long the training takes: the largest bucket is timed, the others follow it."""
        buckets = self.buckets()
        names, steps = max(buckets, key=lambda bucket: len(bucket[0]) * bucket[1])
        network = self.network(names)
        feed = own_feed(self.plan, network, self.seed, steps)
        timed = seconds_of(self.plan, network, feed, passes=self.passes)
        return timed * sum(count for _, count in buckets) / steps


def batched(plan: Plan) -> bool:
    """Whether the tasks' networks are run side by side: many small ones are, large ones are not."""
    small = all(found.type != "image" for found in plan.dataset.inputs.values())
    return (
        small
        and len(plan.tasks) >= FEW
        and stackable(plan.encoder, plan.dataset.inputs, plan.tasks)
    )


@torch.no_grad()
def begin_at(start: Network, network: Network) -> None:
    """Give every task's network the trunk and the head of a common start."""
    if not isinstance(network, SideBySide):
        transplant(start, network)
        return
    stacked = dict(network.trunk.bank.named_parameters())
    for name, parameter in start.trunk.named_parameters():
        stacked[name].copy_(parameter.unsqueeze(0).expand_as(stacked[name]))
    copy_heads(start, network)


def network_of(model: Model, task: str) -> Network:
    """The network of one task, taken out of models that were trained apart.

    Raises ``TypeError`` where the task is not served by a network.
    """
    if isinstance(model, BundleModel):
        return network_of(model.of(task), task)
    if not isinstance(model, NetworkModel):
        raise TypeError(f"task {task!r} is served by a {model.sort}, not by a network")
    network = model.network
    return network.alone(task) if isinstance(network, SideBySide) else network
