"""The parts of a training step that :func:`plait.training.fit` puts in order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from plait.balancing.base import Signals
from plait.batch import Batch
from plait.training.checkpoints import Checkpoint
from plait.training.engine import NotFiniteError
from plait.training.interrupts import Interrupted
from plait.training.observers import Observer
from plait.training.optim import RowwiseAdamW, clip_joint, clip_slices, moves_absent
from plait.training.procedures.base import Ground, Problem, Procedure, Validate
from plait.training.schedules import Schedule

Watcher = Observer | Callable[[Problem, Signals], None]
ROWS_NAMED = 10  # rows of a broken step that the log names


class TrainingError(RuntimeError):
    """A training that cannot go on; the message says which task and which steps."""


@dataclass(frozen=True)
class Run:
    """What became of a training.

    ``stopped`` says why it ended after ``step`` steps: ``steps``, ``patience`` or ``time``.
    ``best_step`` is the step whose weights the network has, None for those of the last one.
    ``losses`` are the latest validation losses. ``history`` holds the events ``valid`` and
    ``dropped``; ``skipped`` counts the steps that a task was left out of.
    """

    step: int
    stopped: str
    seconds: float
    best_step: int | None = None
    losses: Mapping[str, float | None] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)


class Loop:
    """One training between its steps."""

    def __init__(
        self,
        state: Checkpoint,
        ground: Ground,
        procedure: Procedure,
        observers: Sequence[Watcher],
        schedule: Schedule | None,
        clip: float | None,
        bad_steps: int,
    ) -> None:
        self.state = state
        self.ground = ground
        self.procedure = procedure
        self.observers = observers
        self.schedule = schedule
        self.clip = clip
        self.bad_steps = bad_steps
        self.rates = [g.setdefault("initial_lr", g["lr"]) for g in state.optimizer.param_groups]

    @property
    def step(self) -> int:
        """How many steps have been taken."""
        return self.state.progress.step

    # -- one step -------------------------------------------------------------------------------

    def gradients(self, batch: Batch) -> tuple[Problem, Signals]:
        """Fill the gradients, clipped; tasks that are not finite are left out, rows and all.

        The batch without them is run again: beside them in one graph no gradient is safe.
        """
        self.ground.network.advance(self.step)
        problem = Problem(self.ground, batch, self.step)
        dropped: tuple[str, ...] = ()
        signals = None
        while problem.tasks and signals is None:
            for parameter in self.ground.parameters:
                parameter.grad = None
            try:
                signals = self.procedure.gradients(problem, self.state.balancer)
                lost = self._clipped(problem)
            except NotFiniteError as error:
                lost = error.tasks
            if lost:
                dropped, problem, signals = (*dropped, *lost), problem.without(lost), None
        if signals is None:
            signals = problem.told(torch.zeros(0, device=self.ground.device))
        if dropped:
            signals = replace(signals, dropped=dropped)
        return problem, signals

    def _clipped(self, problem: Problem) -> tuple[str, ...]:
        """Clip the gradients; the tasks at fault where their norm is not finite."""
        if self.state.best.per_task:
            names = self.ground.layout.names
            finite = clip_slices(self.ground.parameters, self.clip, names).isfinite()
            if finite.all():
                return ()
            return tuple(n for n, ok in zip(names, finite.tolist(), strict=True) if not ok)
        if math.isfinite(clip_joint(self.ground.parameters, self.clip)):
            return ()
        return problem.culprits() or problem.tasks

    def update(self, problem: Problem, signals: Signals) -> None:
        """Move the present tasks' parameters and the balancer's state."""
        optimizer, balancer = self.state.optimizer, self.state.balancer
        if signals.dropped or self.state.progress.bad:
            self._count_bad(problem, signals)
        if signals.tasks:
            if self.schedule is not None:
                factor = self.schedule(self.step)
                for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
                    group["lr"] = rate * factor
            resting, moving = self.state.best.resting, signals.tasks
            if resting:
                moving = tuple(name for name in moving if name not in resting)
            absent = len(moving) < len(self.ground.layout.names)
            if isinstance(optimizer, RowwiseAdamW):
                optimizer.step(present=moving if absent else None)
            else:
                if absent and moves_absent(optimizer):
                    still = sorted(set(self.ground.layout.names).difference(moving))
                    raise ValueError(absent_refused(optimizer, still))
                optimizer.step()
            balancer.advance(signals, problem.measure() if balancer.second_look else None)
            self.procedure.advance(problem, signals)
        self.state.progress.step += 1

    def _count_bad(self, problem: Problem, signals: Signals) -> None:
        progress = self.state.progress
        for name in signals.tasks:
            progress.bad.pop(name, None)
        for name in signals.dropped:
            progress.bad[name] = progress.bad.get(name, 0) + 1
            progress.skipped[name] = progress.skipped.get(name, 0) + 1
            rows = problem.batch.ids[problem.batch.task(name).rows][:ROWS_NAMED].tolist()
            self._event({"event": "dropped", "step": self.step + 1, "task": name, "rows": rows})
            if (bad := progress.bad[name]) >= self.bad_steps:
                raise TrainingError(
                    f"task {name!r}: its loss or gradient was not finite in {bad} of its steps in "
                    f"a row, the last of them step {self.step + 1} (rows {rows}, …); look at its "
                    "labels and inputs, lower the rate, or leave the task out"
                )

    # -- between steps --------------------------------------------------------------------------

    def judge(self, validate: Validate | None, stride: int, steps: int) -> None:
        """Validate if it is time: every so many steps, and at the end.

        A validation that is cut off is repeated when the training is taken up again.
        """
        here = self.step and (self.step % stride == 0 or self.step >= steps)
        if validate is None or not here or self.state.progress.validated >= self.step:
            return
        try:
            losses = validate(self.ground.network)
        except Interrupted:
            self.state.save(now=True)
            raise
        self.ground.network.train()
        self.state.best.offer(self.step, losses)
        self.state.progress.validated = self.step
        shown = {name: value if math.isfinite(value) else None for name, value in losses.items()}
        event = {"event": "valid", "step": self.step, "pass": self.step / stride}
        self._event({**event, "losses": shown})

    def stopped(
        self, validate: Validate | None, stride: int, steps: int, time_limit: float | None
    ) -> str:
        """Validate if it is time, and say why the training is over, or nothing."""
        self.judge(validate, stride, steps)
        return self.over(steps, time_limit)

    def over(self, steps: int, time_limit: float | None) -> str:
        """Why the training is over, or nothing."""
        if self.step >= steps:
            return "steps"
        if self.state.best.over():
            return "patience"
        if time_limit is not None:
            late = torch.tensor(float(self.state.seconds >= time_limit), device=self.ground.device)
            if float(self.ground.total(late)):  # all processes stop at the same step
                return "time"
        return ""

    def tell(self, problem: Problem, signals: Signals) -> None:
        """Show the step to the observers."""
        for observer in self.observers:
            observer(problem, signals)

    def _event(self, event: dict[str, Any]) -> None:
        self.state.progress.history.append(event)
        for observer in self.observers:
            if isinstance(observer, Observer):
                observer.event(event)

    def finish(self, stopped: str, validate: Validate | None, *, keep_best: bool) -> Run:
        """What became of it, the procedure's last word told."""
        run = self.run(stopped, keep_best=keep_best)
        self.close(validate)
        return run

    def close(self, validate: Validate | None) -> None:
        """Tell what the procedure has to say about the trained network."""
        if validate is None:
            return
        for event in self.procedure.closing(self.ground.network, validate):
            for observer in self.observers:
                if isinstance(observer, Observer):
                    observer.event({"step": self.step, **event})

    @contextmanager
    def observed(self, steps: int) -> Iterator[None]:
        """Observers know when the training begins and ends."""
        with ExitStack() as stack:
            for observer in self.observers:
                if isinstance(observer, Observer):
                    observer.start(self.step, steps)
                    stack.callback(observer.stop)
            yield

    def run(self, stopped: str, *, keep_best: bool) -> Run:
        """What became of it; the network gets the best weights, if they are wanted."""
        if keep_best:
            self.state.best.restore()
        progress = self.state.progress
        valid = [event for event in progress.history if event["event"] == "valid"]
        return Run(
            step=progress.step,
            stopped=stopped,
            seconds=self.state.seconds,
            best_step=self.state.best.step if keep_best else None,
            losses=valid[-1]["losses"] if valid else {},
            history=tuple(progress.history),
            skipped=dict(progress.skipped),
        )


def absent_refused(optimizer: torch.optim.Optimizer, absent: Sequence[str]) -> str:
    """The message for an optimizer that moves what it must not."""
    return (
        f"{type(optimizer).__name__} would move the stacked parameters of tasks that are absent "
        f"from a batch ({', '.join(absent[:3])}{', …' if len(absent) > 3 else ''}) by weight decay "
        "and momentum; use plait.training.RowwiseAdamW, or heads that are separate modules"
    )
