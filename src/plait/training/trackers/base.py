"""What trackers share: events become named numbers, which are sent a few seconds' worth at a time.

Names are ``loss/<task>`` and ``weight/<task>`` (means over windows of steps), ``valid/<task>`` (the
loss on validation rows), ``norm/<task>``, ``conflict/cosine``, ``conflict/share`` and the other
measures of :mod:`plait.training.meters`, and ``dropped/<task>``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

from plait.method import did_you_mean
from plait.settings import TRACKERS
from plait.training.observers import Event, EventLog

SECONDS = 5.0  # numbers are sent at least that often, and at the end
MOST = 1000  # numbers kept before they are sent
Row = tuple[int, dict[str, float]]  # a step and its numbers


class Tracker(EventLog):
    """An event log whose numbers go to an experiment tracker; one training is one run.

    ``name`` is the run's. ``every`` steps make a window, as in :class:`EventLog`. Raises
    ``ValueError`` where the tracker is not installed.
    """

    needs: ClassVar[tuple[str, ...]] = ()  # modules of the extra

    def __init__(self, name: str, every: int | None = None) -> None:
        super().__init__(every=every)
        for module in self.needs:
            if find_spec(module) is None:
                raise ValueError(
                    f"{type(self).__name__} needs {module}: pip install 'plait[track]'"
                )
        self.name = name
        self._rows: list[Row] = []
        self._sent = 0.0
        self._last = 0

    def open(self, step: int) -> int:
        """Begin a run, or for a ``step`` above 0 take up the latest of that name.

        Returns the last step that is there already.
        """
        raise NotImplementedError

    def send(self, rows: Sequence[Row]) -> None:
        """Write numbers to the open run."""
        raise NotImplementedError

    def close(self) -> None:
        """End the run."""
        raise NotImplementedError

    def start(self, step: int, steps: int) -> None:
        """Open the run; of a training that is taken up again, steps it repeats are sent once."""
        super().start(step, steps)
        self._rows, self._sent = [], time.monotonic()
        there = self.open(step)
        self._last = there if step else 0

    def event(self, event: Event) -> None:
        """Keep the event's numbers, and send them if it is time."""
        numbers = numbers_of(event)
        if not numbers or event["step"] <= self._last:
            return
        self._rows.append((int(event["step"]), numbers))
        late = time.monotonic() - self._sent >= SECONDS
        if late or sum(len(row) for _, row in self._rows) >= MOST:
            self._flush()

    def stop(self) -> None:
        """Send what is left and end the run."""
        super().stop()
        self._flush()
        self.close()

    def figures(self, numbers: Mapping[str, float], step: int = 1) -> None:
        """Numbers that are no curve of a training, in the run of the name: a leaderboard's, say."""
        self.open(step)
        try:
            self.send([(step, dict(numbers))])
        finally:
            self.close()

    def _flush(self) -> None:
        if self._rows:
            self.send(self._rows)
        self._rows, self._sent = [], time.monotonic()


def numbers_of(event: Event) -> dict[str, float]:
    """The named numbers of an event; undefined ones are left out.

    >>> numbers_of({"event": "valid", "step": 3, "losses": {"ripe": 0.5, "price": None}})
    {'valid/ripe': 0.5}
    """
    found: dict[str, float | None]
    match event["event"]:
        case "step":
            found = {f"loss/{task}": value for task, value in event["losses"].items()}
            weights = event.get("weights", {})
            found |= {f"weight/{task}": value for task, value in weights.items()}
        case "valid":
            found = {f"valid/{task}": value for task, value in event["losses"].items()}
        case "conflict":
            named = (name for name in event if name not in ("event", "step"))
            found = {f"conflict/{name}": event[name] for name in named}
        case "gradients":
            found = {f"norm/{task}": value for task, value in event["norms"].items()}
        case "dropped":
            found = {f"dropped/{event['task']}": 1.0}
        case _:
            found = {}
    return {name: float(value) for name, value in found.items() if value is not None}


def replay(tracker: Tracker, events: Iterable[Event]) -> None:
    """Give a tracker a training that is over, from the events of its log."""
    tracker.start(0, 1)
    try:
        for event in events:
            tracker.event(event)
    finally:
        tracker.stop()


def tracker_for(spelled: str, where: Any, name: str) -> Tracker:
    """The tracker that ``tensorboard``, ``mlflow`` or ``trackio`` names, writing to ``where``.

    Raises ``ValueError`` for another name, with the nearest.
    """
    if spelled not in TRACKERS:
        raise ValueError(f"track: no tracker {spelled!r}{did_you_mean(spelled, TRACKERS)}")
    module, _, cls = TRACKERS[spelled].partition(":")
    found: Tracker = getattr(import_module(module), cls)(where, name=name)
    return found
