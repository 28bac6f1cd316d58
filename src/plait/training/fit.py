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
from plait.training.engine import Engine, world
from plait.training.interrupts import Interrupts
from plait.training.loop import Loop, Run, Watcher, absent_refused
from plait.training.optim import decay_groups, moves_absent, paced
from plait.training.procedures.base import Ground, Procedure, Validate
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
    validation: Feed | None = None,
) -> Run:
    """Train a network for ``steps`` batches of a feed.

    Every ``validate_every`` steps (a pass) ``validate`` gives losses by task; the weights with the
    best mean are put back at the end, and ``patience`` validations without better ones end it.
    ``per_task`` clips, waits and keeps weights for each task by itself (networks side by side).
    ``clip`` is the largest norm of the gradient, ``schedule`` the learning rate's factor at a step.
    ``validation`` is for methods that learn from held-out rows. Processes of a group each train a
    copy of the network on their own feed, as one would on all their rows.

    Into a ``checkpoint`` folder the state is saved every minute, or ``checkpoint_every`` steps; the
    same call later goes on from there, bit for bit. SIGTERM and Ctrl-C save and exit with 143.
    :class:`TrainingError` names a task whose loss or gradient was not finite, so that it sat out,
    ``bad_steps`` times in a row. ``ValueError``: the optimizer would move absent tasks' slices.
    """
    procedure, engine, balancer = procedure or Plain(), engine or Engine(), _informed(balancer)
    network = _prepared(procedure, network).train()
    held = _held_out(balancer, procedure, validation)
    ground = Ground(network, seed, micro_batches, autocast, engine, held, world())
    _bind(balancer, procedure, ground)
    optimizer = optimizer or _optimizer(procedure, ground)
    _check_optimizer(optimizer, feed, ground, min(steps, feed.steps))
    best, stride = Best(network, patience, per_task=per_task), validate_every or feed.steps
    about = _about(balancer, optimizer, procedure, ground, steps)
    state = _taken_up(ground, optimizer, balancer, best, about, checkpoint)
    loop = Loop(state, ground, procedure, observers, schedule, clip, bad_steps)
    with _random_state_kept(ground.device), loop.observed(steps), Interrupts() as interrupts:
        while not (stopped := loop.stopped(validate, stride, steps, time_limit)):
            problem, signals = loop.gradients(feed.batch(loop.step))
            loop.update(problem, signals)
            loop.tell(problem, signals)
            state.save(every=checkpoint_every, now=interrupts.asked)
            interrupts.leave_if_asked()
        state.save(now=True)
        return loop.finish(stopped, validate, keep_best=keep_best)


def _informed(balancer: Balancer | None) -> Balancer:
    """The balancer, where it has all that it must be given."""
    balancer = balancer or Equal()
    if balancer.needs_table:
        name = balancer.card.name
        raise ValueError(
            f"{name} is made from the training data, which `fit` does not see as a table: make it "
            "with its class's `of`, or give it `weights`; a study does so by itself"
        )
    return balancer


def _optimizer(procedure: Procedure, ground: Ground) -> torch.optim.Optimizer:
    """The usual optimizer of the procedure."""
    groups = paced(decay_groups(ground.parameters, 0.01), ground.network, 1e-3)
    return procedure.optimizer(ground.network, groups, 1e-3)


def _taken_up(
    ground: Ground,
    optimizer: torch.optim.Optimizer,
    balancer: Balancer,
    best: Best,
    about: dict[str, object],
    folder: Path | None,
) -> Checkpoint:
    """The state of the training, from its checkpoint if there is one.

    Of several processes the first alone will write.
    """
    parts = ground.network, optimizer, balancer, best, Progress()
    state = Checkpoint(*parts, about, folder, ground.memory)
    state.load()
    if ground.processes is not None:
        ground.total(torch.zeros(1, device=ground.device))  # nobody writes before all have read
        state.folder = folder if ground.processes.rank == 0 else None
    return state


def _held_out(balancer: Balancer, procedure: Procedure, feed: Feed | None) -> Feed | None:
    """The feed of held-out rows, for those who learn from them."""
    asking = [method for method in (balancer, procedure) if method.needs_validation]
    if asking and feed is None:
        raise ValueError(
            f"{asking[0].card.name} learns from losses on held-out rows: give `fit` a feed of them "
            "as `validation`"
        )
    return feed if asking else None


def _prepared(procedure: Procedure, network: Network) -> Network:
    """The network, where it is the one that the procedure trains."""
    if procedure.prepare(network) is not network:
        name = procedure.card.name
        raise ValueError(
            f"{name} trains a network of its own: make it, and its optimizer, with `network = "
            f"procedure.prepare(network)` before `fit`"
        )
    return network


def _bind(balancer: Balancer, procedure: Procedure, ground: Ground) -> None:
    ground.memory = procedure.memory(ground.network)
    balancer.bind(ground.layout.names)
    balancer.to(ground.device, torch.float32 if ground.device.type == "mps" else None)


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
