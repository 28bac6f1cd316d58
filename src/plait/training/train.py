"""The whole recipe: a network and a data set in, a trained network out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.optim import Optimizer

from plait.balancing.base import Balancer
from plait.data.mirroring import Mirrored
from plait.data.mixing import Feed, Rows, auto_batch, feed_for
from plait.networks import Network
from plait.networks.network import evaluating
from plait.settings import Training
from plait.training.fit import fit
from plait.training.interrupts import poll
from plait.training.loop import Run, Watcher
from plait.training.measuring import Alignment, Layout, sums_of
from plait.training.meters import ConflictMeter
from plait.training.observers import EventLog, Observer
from plait.training.optim import decay_groups, paced
from plait.training.procedures.base import Procedure
from plait.training.procedures.plain import Plain
from plait.training.schedules import SCHEDULES

if TYPE_CHECKING:
    from plait.data import Dataset
    from plait.data.dataset import Split

ROWS = 1024  # rows of one forward in validation


def train(
    network: Network,
    dataset: Dataset,
    training: Training,
    *,
    balancer: Balancer | None = None,
    procedure: Procedure | None = None,
    seed: int = 0,
    tasks: Collection[str] | None = None,
    folder: Path | None = None,
    feed: Feed | None = None,
    per_task: bool = False,
    keep_best: bool = True,
    observers: Sequence[Watcher] = (),
) -> Run:
    """Train a network on a data set's training rows as the settings say.

    The tasks are the network's, or those of them in ``tasks``. Validation losses (the mean over
    tasks) choose the weights that are kept, unless ``keep_best`` is false or no task has a
    validation row. ``folder`` gets ``events.jsonl`` and ``checkpoint``; with it a training that was
    cut off goes on. Of the balancer the settings count, not the state. The network stays on the
    device that was used.
    """
    names = network.tasks.names if tasks is None else network.tasks.subset(tasks).names
    device = device_of(training.device)
    network.to(device)
    feed = feed or feed_for(dataset, training, seed, names)
    if training.mirror:
        feed = Mirrored(feed, training.mirror, seed)
    steps = training.passes * feed.steps
    counts = dataset.counts("valid")
    judged = [name for name in names if counts[name]]
    log = EventLog(None if folder is None else folder / "events.jsonl")
    told = [each for each in observers if isinstance(each, Observer)]
    meter = _meter([log, *told], training, steps, feed.steps)
    fresh = None if balancer is None else balancer.fresh()
    return fit(
        network,
        feed,
        fresh,
        _optimizer(network, training, procedure or Plain()),
        steps=steps,
        seed=seed,
        procedure=procedure,
        schedule=SCHEDULES[training.schedule](steps, training.warmup),
        clip=training.clip,
        micro_batches=training.micro_batches,
        autocast=lower_precision(training.precision, device),
        validate=(lambda net: evaluate(net, dataset, "valid", judged)) if judged else None,
        patience=training.patience if keep_best else None,
        keep_best=keep_best,
        bad_steps=training.bad_steps,
        checkpoint=None if folder is None else folder / "checkpoint",
        observers=(log, *observers) if per_task else (log, meter, *observers),
        time_limit=training.time_limit,
        per_task=per_task,
        validation=_held_out(dataset, fresh, procedure, judged, training, seed),
    )


def _meter(logs: Sequence[Observer], training: Training, steps: int, stride: int) -> ConflictMeter:
    """A cheap look once a pass, or all tasks on the whole batch as often as is asked."""
    if training.meter is None:
        return ConflictMeter(*logs, every=max(1, steps // 300), refresh=stride)
    often = training.meter
    return ConflictMeter(*logs, every=often, refresh=often, rows=None, most=None)


def _optimizer(network: Network, training: Training, procedure: Procedure) -> Optimizer:
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = paced(decay_groups(trained, training.weight_decay), network, training.learning_rate)
    return procedure.optimizer(network, groups, training.learning_rate)


def _held_out(
    dataset: Dataset,
    balancer: Balancer | None,
    procedure: Procedure | None,
    tasks: Collection[str],
    training: Training,
    seed: int,
) -> Feed | None:
    """Batches of validation rows, for a balancer or procedure that learns from them."""
    asking = [method for method in (balancer, procedure) if method and method.needs_validation]
    if not asking:
        return None
    if not tasks:
        raise ValueError(f"{asking[0].card.name} learns from validation rows, and there are none")
    rows = len(dataset.rows("valid"))
    batch = auto_batch(rows) if training.batch == "auto" else int(training.batch)
    return Rows(dataset, batch=batch, seed=seed, split="valid", tasks=tasks)


@torch.no_grad()
def evaluate(
    network: Network, dataset: Dataset, split: Split, tasks: Collection[str]
) -> dict[str, float]:
    """The mean loss of every named task over a split; tasks without a label there are left out."""
    device = next(network.parameters()).device
    layout = Layout(network.tasks, device)
    alignment = Alignment(dataset.tasks, network.tasks)
    losses = torch.zeros(len(layout.names), device=device)
    weights = torch.zeros_like(losses)
    rows = [dataset.rows(split, name) for name in tasks]
    with evaluating(network):
        for some in (
            torch.unique(torch.cat(rows)).split(network.tasks.at_once(ROWS)) if rows else ()
        ):
            poll()
            batch = alignment(dataset.batch(some, tasks))
            units = layout.units(batch)
            batch = batch.to(device)
            outputs = network(batch.parts, batch.labels)
            losses += sums_of(batch, outputs, layout)
            weights += layout.spread(units)
    found = zip(layout.names, losses.tolist(), weights.tolist(), strict=True)
    return {name: loss / weight for name, loss, weight in found if weight > 0}


def device_of(name: str) -> torch.device:
    """The device of that name; ``auto`` is the best there is."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def lower_precision(name: str, device: torch.device) -> bool:
    """Whether forwards run in bfloat16; ``auto``: on a GPU that has it."""
    if name == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return name == "bfloat16"
