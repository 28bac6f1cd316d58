"""About how long a training takes, from a few timed steps.

A step is timed in seconds of a free machine: on a busy one a process waits for its turn, which says
nothing about the work. Where a GPU does the work the clock on the wall is the only one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch

from plait.balancing.base import Signals
from plait.comparing.building import balancer_for, fresh
from plait.comparing.model import featured
from plait.comparing.plan import Plan
from plait.data.mixing import Feed, feed_for
from plait.method import Method
from plait.networks import Network
from plait.training import train
from plait.training.observers import Observer
from plait.training.procedures.base import Problem
from plait.training.train import device_of, evaluate

FEW, MANY = 3, 12  # steps timed after one to warm up: where they are slow, and where they are quick
QUICK = 0.05  # seconds of a step
LONG = 2.0  # seconds of a fit that is not repeated for a better estimate
MEMBERS = 8  # trees or rounds in the fit that is timed


@dataclass(frozen=True)
class Moment:
    """A point in time, on the wall, of this thread's work and of all threads' work, in seconds."""

    wall: float
    thread: float
    process: float

    @classmethod
    def now(cls) -> Moment:
        """What the clocks say."""
        return cls(time.perf_counter(), time.thread_time(), time.process_time())

    def since(self, before: Moment, *, on_cpu: bool = True) -> float:
        """The seconds that the work in between takes on a free machine.

        It is the work of this thread, or an even share of that of all threads where they did more.
        Without ``on_cpu`` it is the time on the wall.
        """
        wall = self.wall - before.wall
        if not on_cpu:
            return wall
        shared = (self.process - before.process) / torch.get_num_threads()
        return min(wall, max(self.thread - before.thread, shared))


def passes_of(plan: Plan, passes: int | None = None, *, early: bool = True) -> float:
    """How many passes a training is likely to take: early stopping may end it.

    Between the fewest and the most their geometric mean is wrong by the smallest factor.
    """
    most = plan.training.passes if passes is None else passes
    patience = plan.training.patience
    if patience is None or not early or not any(plan.dataset.counts("valid").values()):
        return float(most)
    return likely(patience + 1, most)


def likely(fewest: float, most: float) -> float:
    """The number between the two that is wrong by the smallest factor, whichever comes true."""
    return math.sqrt(min(fewest, most) * most)


def seconds_of(
    plan: Plan,
    network: Network,
    feed: Feed | None = None,
    *,
    balancer: Method | str = "equal",
    procedure: Method | str | None = None,
    passes: int | None = None,
    early: bool = True,
) -> float:
    """About how long a training takes, validation and early stopping included.

    The network is changed. ``passes`` stand in for the plan's.
    """
    data = featured(network, plan.dataset, plan.folder)
    feed = feed or feed_for(data, plan.training, 0, network.tasks.names)

    on_cpu = device_of(plan.training.device).type == "cpu"

    def step(count: int) -> float:
        laps = _Laps(count)
        with suppress(_EnoughError):
            train(
                network,
                data,
                plan.training,
                balancer=balancer_for(plan, balancer),
                procedure=fresh("procedure", procedure or "plain"),
                feed=feed,
                observers=(laps,),
            )
        return laps.mean(on_cpu=on_cpu)

    each = step(FEW)
    if each < QUICK:
        each = step(MANY)
    before = Moment.now()
    evaluate(network, data, "valid", network.tasks.names)
    validation = Moment.now().since(before, on_cpu=on_cpu)
    return (each * feed.steps + validation) * passes_of(plan, passes, early=early)


def extrapolated(fit: Callable[[int], object], most: int, fewest: int | None = None) -> float:
    """About how long ``fit(most)`` takes, where its time grows by the same for each member.

    ``fewest`` where it may stop early. One member is timed, then some; where one alone takes long
    no more than that is spent on the question.
    """
    count = most if fewest is None else likely(fewest, most)
    one = _seconds(lambda: fit(1))
    if one > LONG or most <= MEMBERS:
        return one * count
    some = _seconds(lambda: fit(MEMBERS))
    each = max(some - one, 0.0) / (MEMBERS - 1)
    return one + each * (count - 1)


def _seconds(work: Callable[[], object]) -> float:
    before = Moment.now()
    work()
    return Moment.now().since(before)


class _EnoughError(Exception):
    """Ends a training that is only timed."""


class _Laps(Observer):
    """Times ``count`` steps after one that warms up, then ends the training."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.moments: list[Moment] = []

    def __call__(self, problem: Problem, signals: Signals) -> None:  # noqa: ARG002
        """A step has been taken."""
        self.moments.append(Moment.now())
        if len(self.moments) > self.count:
            raise _EnoughError

    def mean(self, *, on_cpu: bool) -> float:
        """The mean seconds of a step; 0 where there were fewer than two."""
        steps = len(self.moments) - 1
        return self.moments[-1].since(self.moments[0], on_cpu=on_cpu) / steps if steps > 0 else 0.0
