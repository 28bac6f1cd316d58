"""Who watches a training: the event log, the line on the terminal."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from plait.balancing.base import Signals
from plait.training.procedures.base import Problem

Event = Mapping[str, Any]


class Observer:
    """Called after every step with the problem and its signals, and with events by name.

    ``valid``: the validation losses of a pass. ``dropped``: a task whose step was left out.
    ``conflict``, ``gradients`` and ``cosines``: what a :class:`ConflictMeter` sees.
    """

    def start(self, step: int, steps: int) -> None:
        """The training begins, or is taken up again, before ``step`` of ``steps``."""

    def __call__(self, problem: Problem, signals: Signals) -> None:
        """A step has been taken."""

    def event(self, event: Event) -> None:
        """Something else has happened."""

    def stop(self) -> None:
        """The training has ended, one way or another."""


class EventLog(Observer):
    """Events as JSON lines; losses and weights are means over windows of ``every`` steps.

    ``every`` None keeps about 300 windows, fewer where tasks are many. A training that is taken up
    again forgets the lines of the steps that it will repeat. ``events`` holds them where there is
    no path.
    """

    def __init__(self, path: Path | None = None, every: int | None = None) -> None:
        self.path = path
        self.every = every
        self.events: list[dict[str, Any]] = []
        self._file: IO[str] | None = None
        self._steps = 1
        self._sums: Tensor | None = None
        self._names: tuple[str, ...] = ()

    def start(self, step: int, steps: int) -> None:
        """Open the file, and keep the lines of earlier steps only."""
        self._steps = steps
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [event for event in read_events(self.path) if event["step"] <= step] if step else []
        self._file = self.path.open("w", encoding="utf-8")
        for event in kept:
            self._write(event)

    def __call__(self, problem: Problem, signals: Signals) -> None:
        """Add the step to the window."""
        if self._sums is None:
            self._names = problem.ground.layout.names
            self._sums = signals.losses.new_zeros(3, len(self._names))
        sums, places, weights = self._sums, _places(problem, signals), signals.weights
        _add(sums[0], signals.losses, places)
        if weights is not None:
            _add(sums[1], weights.to(sums), places)
        _add(sums[2], torch.ones_like(signals.losses), places)
        step = problem.step + 1
        window = self.every or max(1, -(-self._steps // windows(len(self._names))))
        if step % window == 0:
            event = {"event": "step", "step": step, "losses": self._means(sums[0])}
            if weights is not None:
                event["weights"] = self._means(sums[1])
            self.event(event)
            sums.zero_()

    def event(self, event: Event) -> None:
        """Write a line."""
        record = dict(event)
        if self._file is None:
            self.events.append(record)
        else:
            self._write(record)

    def stop(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._sums = None

    def _means(self, row: Tensor) -> dict[str, float | None]:
        """The window's means of the tasks that were in it."""
        assert self._sums is not None
        counts = self._sums[2]
        rows = zip(self._names, (row / counts).tolist(), counts.tolist(), strict=True)
        return {name: number(mean) for name, mean, count in rows if count}

    def _write(self, event: Event) -> None:
        assert self._file is not None
        self._file.write(json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()


def windows(tasks: int) -> int:
    """How many windows a training is told in.

    Writing a window takes time for every task; so does reading the log.
    """
    return min(300, max(30, 10_000 // tasks))


def _places(problem: Problem, signals: Signals) -> Tensor | None:
    """Where the tasks told of stand among all; None: these are all."""
    names = problem.ground.layout.names
    if signals.tasks == names:
        return None
    place = {name: number for number, name in enumerate(names)}
    numbers = [place[name] for name in signals.tasks]  # none where every task's loss was no number
    return torch.tensor(numbers, dtype=torch.long, device=signals.losses.device)


def _add(row: Tensor, values: Tensor, places: Tensor | None) -> None:
    if places is None:
        row += values
    else:
        row.index_add_(0, places, values)


def number(value: float) -> float | None:
    """Six digits of a finite number, None for others."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a log; a last line that was cut off is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text("utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


class Lines(Observer):
    """A line about the training every ``seconds``, for logs."""

    def __init__(self, title: str = "", seconds: float = 30.0, file: IO[str] | None = None) -> None:
        self.title = title
        self.seconds = seconds
        self.file = file
        self._said = 0.0
        self._steps = 0

    def start(self, step: int, steps: int) -> None:
        """Wait for the first interval to pass."""
        del step
        self._said, self._steps = time.monotonic(), steps

    def __call__(self, problem: Problem, signals: Signals) -> None:
        """Say how far it is, if it is time."""
        now = time.monotonic()
        if now - self._said < self.seconds:
            return
        self._said = now
        loss = float(signals.losses.mean()) if len(signals.losses) else math.nan
        words = f"{self.title} step {problem.step + 1}/{self._steps}, mean loss {loss:.4g}"
        print(words.strip(), file=self.file or sys.stderr, flush=True)


class Bar(Observer):
    """A progress bar on a terminal."""

    def __init__(self, title: str = "") -> None:
        self.title = title
        self._bar: Any = None

    def start(self, step: int, steps: int) -> None:
        """Show the bar."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        words = TextColumn("{task.description}"), TextColumn("{task.fields[loss]}")
        columns = (words[0], BarColumn(), MofNCompleteColumn(), Remaining(), words[1])
        self._bar = Progress(*columns, transient=True)
        self._bar.start()
        self._task = self._bar.add_task(self.title, total=steps, completed=step, loss="")

    def __call__(self, problem: Problem, signals: Signals) -> None:
        """Move on."""
        del signals
        self._bar.update(self._task, completed=problem.step + 1)

    def event(self, event: Event) -> None:
        """Show the last validation loss."""
        losses = [loss for loss in event.get("losses", {}).values() if loss is not None]
        if event["event"] == "valid" and losses and self._bar is not None:
            self._bar.update(self._task, loss=f"validation {sum(losses) / len(losses):.4g}")

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


def progress(title: str = "") -> Observer:
    """A bar on a terminal, a line every half minute elsewhere."""
    return Bar(title) if sys.stderr.isatty() else Lines(title)
