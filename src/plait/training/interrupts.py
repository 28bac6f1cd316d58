"""Ends that are asked for: SIGTERM and Ctrl-C, and those that another thread asks for.

A training finishes its step, saves and leaves; other long work leaves where it polls. A process
that was told to end by a signal has the exit code 143.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

EXIT_CODE = 143


class Interrupted(SystemExit):
    """The process was asked to end, and what could be saved was; its exit code is 143."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


_OPEN: list[Interrupts] = []
_STOPS: list[Stop] = []


def poll() -> None:
    """Leave if that was asked for; for long work without updates."""
    for listening in _OPEN:
        listening.leave_if_asked()
    for stop in _STOPS:
        stop.leave_if_asked()


class Stop:
    """Ends the work of a block at its next step, with an error; any thread may call it.

    ``save`` says whether a training saves first.
    """

    def __init__(self) -> None:
        self.reason: Exception | None = None
        self.save = False

    def __call__(self, reason: Exception, *, save: bool) -> None:
        """Ask; only the first reason counts."""
        if self.reason is None:
            self.save, self.reason = save, reason

    def leave_if_asked(self) -> None:
        """Raise the reason, if there is one."""
        if self.reason is not None:
            raise self.reason


@contextmanager
def stoppable() -> Iterator[Stop]:
    """A block whose work can be ended by calling what it is given."""
    stop = Stop()
    _STOPS.append(stop)
    try:
        yield stop
    finally:
        _STOPS.remove(stop)


class Interrupts:
    """Listens while it is open; ``asked`` says whether to save and leave.

    A second signal quits at once. Outside the main thread no signal is listened to.
    """

    def __init__(self) -> None:
        self._heard = self._told = False
        self._old: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether the process was told to end, or its work to stop after saving."""
        return self._heard or any(stop.save and stop.reason for stop in _STOPS)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._hear)
        _OPEN.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Listen no longer. What was asked too late to be seen inside is raised now."""
        _OPEN.remove(self)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        if self._heard and not self._told and (kind is None or issubclass(kind, Exception)):
            raise Interrupted from error
        if kind is None and not self._told:
            self.leave_if_asked()

    def leave_if_asked(self) -> None:
        """Raise :class:`Interrupted` if the process was told to end, or the reason to stop."""
        if self._heard:
            self._told = True
            raise Interrupted
        for stop in _STOPS:
            stop.leave_if_asked()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._heard:
            self._quit(number)
        self._heard = True

    def _quit(self, number: int) -> NoReturn:
        self._told = True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Interrupted


class Terminated(Interrupts):
    """SIGTERM raises :class:`Interrupted` where it finds the process; for work that saves nothing.

    Trainings inside listen for themselves. Should the error be swallowed where it was raised (in a
    destructor, in a library's callback), the next poll raises it again.
    """

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._old[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._hear)
        _OPEN.append(self)
        return self

    def _hear(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._heard = True
        raise Interrupted
