"""What the strategies that train networks share: building and training them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plait.adapting.adapted import AdaptedTrunk
from plait.adapting.base import SiteBank, outermost
from plait.balancing.base import Balancer
from plait.comparing.evaluate import mean_loss, predict_split
from plait.comparing.model import NetworkModel, featured
from plait.comparing.plain.fitting import Sample, Samples
from plait.comparing.plan import Plan
from plait.data.mixing import Feed, SideBySide, auto_batch, feed_for
from plait.method import Method, resolve, spell
from plait.networks import Network, build_network
from plait.networks.base import escape, task_slices
from plait.networks.heads import priors_of
from plait.sharing.base import Mixture
from plait.sharing.use import ExpertUse, expert_use
from plait.training import train

LOOKED_AT = 1024  # validation rows that tell how experts are used


def fresh(family: str, spelled: Method | str) -> Any:
    """A method of its own for one training: balancers carry state."""
    return resolve(family, spell(spelled) if isinstance(spelled, Method) else spelled)


def balancer_for(plan: Plan, spelled: Method | str) -> Balancer:
    """A balancer of its own, made for the plan's training rows where it asks for them.

    Raises ``ValueError`` naming a task whose labels do not vary.
    """
    balancer: Balancer = fresh("balancing", spelled)
    if not balancer.needs_table:
        return balancer
    return balancer.informed(
        {s.pool.name: _theta(s) for s in Samples(plan, codes=False, pooled=False)}
    )


def _theta(sample: Sample) -> torch.Tensor:
    """Products [k, F] of a task's standardised labels, a row a class, with its encoded inputs."""
    target = sample.target
    if sample.kind.kind == "classes":
        target = (target[:, None] == np.arange(len(sample.kind.classes))).astype(float)
    labels = target.reshape(len(target), -1) - target.reshape(len(target), -1).mean(0)
    spread = labels.std(0)
    if not (spread > 0).any():
        raise ValueError(f"the labels of task {sample.pool.name!r} do not vary; leave the task out")
    labels = labels[:, spread > 0] / spread[spread > 0] / len(labels)
    found = np.asarray(sample.table.T @ labels).T
    return torch.from_numpy(found)


def make_network(
    plan: Plan,
    seed: int,
    *,
    sharing: Method | str = "hard",
    tasks: Collection[str] | None = None,
    encoder: Mapping[str, Any] | None = None,
) -> Network:
    """A fresh network of the plan for some of its tasks, its heads at the tasks' base rates."""
    dataset = plan.dataset
    chosen = dataset.tasks if tasks is None else dataset.tasks.subset(tasks)
    priors = priors_of(dataset)
    return build_network(
        inputs=dataset.inputs,
        tasks=chosen,
        encoder=plan.located if encoder is None else encoder,
        sharing=fresh("sharing", sharing),
        seed=seed,
        priors={name: prior for name, prior in priors.items() if name in chosen.position},
    )


def train_network(
    plan: Plan,
    network: Network,
    seed: int,
    folder: Path,
    *,
    passes: int | None = None,
    balancer: Method | str = "equal",
    procedure: Method | str | None = None,
    feed: Feed | None = None,
    per_task: bool = False,
    early: bool = True,
) -> dict[str, Any]:
    """Train a network as the plan says; returns what was found, as plain data.

    ``passes`` stand in for the plan's. ``early`` False keeps the weights of the last step.
    """
    training = plan.training if passes is None else replace(plan.training, passes=passes)
    dataset = featured(network, plan.dataset, plan.folder)
    feed = feed or feed_for(dataset, training, seed, network.tasks.names)
    run = train(
        network,
        dataset,
        training,
        balancer=balancer_for(plan, balancer),
        procedure=fresh("procedure", procedure or "plain"),
        seed=seed,
        folder=folder,
        feed=feed,
        per_task=per_task,
        keep_best=early,
    )
    best = run.step if run.best_step is None else run.best_step
    return {"best_pass": max(1, round(best / feed.steps))}


def experts_used(plan: Plan, network: Network) -> list[dict[str, Any]]:
    """How the tasks use the network's experts on validation rows, as plain data; [] without any."""
    dataset = featured(network, plan.dataset, plan.folder)
    rows = dataset.rows("valid")
    if not len(rows) or not any(isinstance(module, Mixture) for module in network.modules()):
        return []
    some = torch.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows))).round().long()
    batch = dataset.batch(rows[some]).to(next(network.parameters()).device)
    return [use.to_json() for use in expert_use(network, batch.parts)]


@torch.no_grad()
def adapters_used(network: Network) -> dict[str, Any]:
    """What adapters store for each task, and how much tasks take of their experts, as plain data.

    ``experts`` is of the form that :func:`experts_used` gives, one for each site.
    """
    trunk, names = network.trunk, network.tasks.names
    if not isinstance(trunk, AdaptedTrunk):
        return {}
    banks = [bank for bank in trunk.banks.values() if isinstance(bank, SiteBank)]
    trained = [p for p in trunk.banks.parameters() if p.requires_grad]
    common = sum(p.numel() for p in trained if task_slices(p) is None)
    stored = {name: sum(bank.stored(name) for bank in banks) for name in names}
    told = {"trained": sum(p.numel() for p in trained), "common": common, "stored": stored}
    taken = {
        p: found for p, at in outermost(trunk).items() if (found := at.bank.taken()) is not None
    }
    used = [_use(path, names, load.cpu()) for path, load in taken.items()]
    return {"adapters": told, **({"experts": used} if used else {})}


def _use(place: str, names: tuple[str, ...], load: torch.Tensor) -> dict[str, Any]:
    """How tasks use experts that all of them may read, each by itself if it comes to that."""
    count = load.shape[1]
    entropy = -(load * load.clamp(min=1e-12).log()).sum(1)
    reads, silent = torch.ones_like(load, dtype=torch.bool), torch.zeros(count)
    use = ExpertUse(place, names, (None,) * count, load, entropy, silent, reads)
    failures = [each for each in use.failures() if each.startswith("dead")]
    return {**use.to_json(), "failures": failures}


def encoder_frozen(plan: Plan, *, frozen: bool) -> Plan:
    """The plan with its pretrained encoders frozen, or not."""
    encoder = {}
    for kind, form in plan.encoder.items():
        encoder[kind] = form
        if isinstance(form, Mapping) and "pretrained" in str(form):
            ((name, settings),) = form.items()
            encoder[kind] = {name: {**settings, "frozen": frozen}}
    dataset = plan.dataset
    return replace(plan, encoder=encoder, source=lambda: dataset)


def own_feed(plan: Plan, network: Network, seed: int, steps: int) -> SideBySide:
    """The feed of tasks that are trained each on its own."""
    data = featured(network, plan.dataset, plan.folder)
    return SideBySide(data, steps=steps, seed=seed, tasks=network.tasks.names)


def own_steps(plan: Plan, labels: int) -> int:
    """Steps of one pass over the labels of one task."""
    batch = plan.training.batch
    size = auto_batch(labels) if batch == "auto" else int(batch)
    return max(1, -(-labels // size))


def validation_loss(plan: Plan, network: Network) -> float:
    """The mean over tasks of a network's validation losses."""
    model = NetworkModel(network)
    return mean_loss(
        network.tasks, predict_split(model, featured(network, plan.dataset, plan.folder), "valid")
    )


def transplant(source: Network, target: Network) -> None:
    """Give a network the trunk of another of the same shape, and the heads of common tasks."""
    target.trunk.load_state_dict(source.trunk.state_dict())
    copy_heads(source, target)


@torch.no_grad()
def copy_heads(source: Network, target: Network) -> None:
    """Copy the heads of the tasks that both networks have."""
    for group, mine in target.tasks.groups.items():
        theirs = source.tasks.groups.get(group)
        if theirs is None:
            continue
        here = dict(target.heads.banks[escape(group)].named_parameters())
        there = dict(source.heads.banks[escape(group)].named_parameters())
        for task in mine.tasks:
            if task in theirs.position:
                for name, parameter in here.items():
                    parameter[mine.position[task]] = there[name][theirs.position[task]]
