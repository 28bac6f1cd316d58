"""The visible loop: batches in, a trained network out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from plait.balancing.base import Balancer
from plait.balancing.equal import Equal
from plait.data.mixing import Feed
from plait.method import Method
from plait.networks import Network
from plait.training.best import Best
from plait.training.checkpoints import Checkpoint, Progress
from plait.training.engine import Engine
from plait.training.interrupts import Interrupts
from plait.training.loop import Loop, Run, Validate, Watcher, absent_refused
from plait.training.optim import RowwiseAdamW, decay_groups, moves_absent
from plait.training.procedures.base import Ground, Procedure
from plait.training.procedures.plain import Plain
from plait.training.schedules import Schedule


def fit(
    network: Network,
    feed: Feed,
    balancer: Balancer | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    steps: int,
    seed: int = 0,
    procedure: Procedure | None = None,
    schedule: Schedule | None = None,
    clip: float | None = None,
    micro_batches: int = 1,
    autocast: bool | torch.dtype = False,
    validate: Validate | None = None,
    validate_every: int | None = None,
    patience: int | None = None,
    keep_best: bool = True,
    bad_steps: int = 10,
    checkpoint: Path | None = None,
    checkpoint_every: int | None = None,
    observers: Sequence[Watcher] = (),
    time_limit: float | None = None,
    per_task: bool = False,
    engine: Engine | None = None,
) -> Run:
    """Train a network for ``steps`` batches of a feed.

    Every ``validate_every`` steps (a pass) ``validate`` gives losses by task; the weights with the
    best mean are put back at the end, and ``patience`` validations without better ones end it.
    ``per_task`` clips, waits and keeps weights for each task by itself (networks side by side).
    ``clip`` is the largest norm of the gradient, ``schedule`` the learning rate's factor at a step.

    Into a ``checkpoint`` folder the state is saved every minute, or ``checkpoint_every`` steps; the
    same call later goes on from there, bit for bit. SIGTERM and Ctrl-C save and exit with 143. A
    task whose loss or gradient is not finite sits the step out; :class:`TrainingError` names it
    after ``bad_steps`` in a row. ``ValueError``: the optimizer would move absent tasks' slices.
    """
    procedure = procedure or Plain()
    network = procedure.prepare(network).train()
    ground = Ground(network, seed, micro_batches, autocast, engine or Engine())
    balancer = _bound(balancer or Equal(), ground)
    optimizer = optimizer or RowwiseAdamW(decay_groups(ground.parameters, 0.01))
    _check_optimizer(optimizer, feed, ground, min(steps, feed.steps))
    best = Best(network, patience, per_task=per_task)
    about = _about(balancer, optimizer, procedure, ground, steps)
    state = Checkpoint(network, optimizer, balancer, best, Progress(), about, checkpoint)
    loop = Loop(state, ground, procedure, observers, schedule, clip, bad_steps)
    state.load()
    with _random_state_kept(ground.device), loop.observed(steps), Interrupts() as interrupts:
        while True:
            loop.judge(validate, validate_every or feed.steps, steps)
            if stopped := loop.over(steps, time_limit):
                break
            problem, signals = loop.gradients(feed.batch(loop.step))
            loop.update(problem, signals)
            loop.tell(problem, signals)
            state.save(every=checkpoint_every, now=interrupts.asked)
            interrupts.leave_if_asked()
    state.save(now=True)
    return loop.run(stopped, keep_best=keep_best)


def _bound(balancer: Balancer, ground: Ground) -> Balancer:
    balancer.bind(ground.layout.names)
    if ground.device.type == "mps":  # has no float64
        return balancer.to(ground.device, torch.float32)
    return balancer.to(ground.device)


def _about(
    balancer: Balancer,
    optimizer: torch.optim.Optimizer,
    procedure: Procedure,
    ground: Ground,
    steps: int,
) -> dict[str, object]:
    """What must be the same for a training to go on from a checkpoint."""
    return {
        "tasks": sorted(ground.layout.names),
        "balancer": _told(balancer),
        "procedure": _told(procedure),
        "optimizer": type(optimizer).__name__,
        "seed": ground.seed,
        "steps": steps,
    }


def _told(method: Method) -> str:
    return f"{method.card.key} {method.settings()}"


def _check_optimizer(
    optimizer: torch.optim.Optimizer, feed: Feed, ground: Ground, steps: int
) -> None:
    """Look through a pass for an absent task, if the optimizer would move its slices."""
    if not moves_absent(optimizer):
        return
    for step in range(steps):
        units = ground.layout.units(ground.aligned(feed.batch(step)))
        if units.places is not None:
            absent = set(ground.layout.names).difference(units.tasks)
            raise ValueError(absent_refused(optimizer, sorted(absent)))


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """The global generators are keyed at every forward inside, and come back as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
