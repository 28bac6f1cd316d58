"""SIGTERM and Ctrl-C: finish the step, save, and leave with exit code 143."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

EXIT_CODE = 143


class Interrupted(SystemExit):
    """The process was asked to end, and what could be saved was; its exit code is 143."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


_OPEN: list[Interrupts] = []


def poll() -> None:
    """Raise :class:`Interrupted` if the process was told to end; for long work without updates."""
    for listening in _OPEN:
        listening.leave_if_asked()


class Interrupts:
    """Listens while it is open; ``asked`` says whether the process was told to end.

    A second signal quits at once. Outside the main thread nothing is listened to.
    """

    def __init__(self) -> None:
        self.asked = False
        self._old: dict[int, Any] = {}

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
        _OPEN.remove(self)
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def leave_if_asked(self) -> None:
        """Raise :class:`Interrupted` if the process was told to end."""
        if self.asked:
            raise Interrupted

    def _hear(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.asked:
            self._quit(number)
        self.asked = True

    def _quit(self, number: int) -> NoReturn:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Interrupted
