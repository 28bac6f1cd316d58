"""How far a study is: a bar on a terminal, a line every thirty seconds elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import IO, Any, Self

EVERY = 30.0


def duration(seconds: float) -> str:
    """A length of time in words.

    >>> duration(7.4), duration(100), duration(5000)
    ('7 s', '1 min 40 s', '1 h 23 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Progress:
    """Shows which cells of a study are done. The base class shows nothing.

    ``estimate`` is the seconds expected for all that is left, 0 where they are not known.
    """

    def __init__(self) -> None:
        self.total = self.done = self.first = 0
        self.estimate = 0.0
        self.current = ""
        self.started = time.monotonic()

    def start(self, total: int, done: int, estimate: float = 0.0) -> None:
        """Say how many cells there are and how many need no computing."""
        self.total, self.done, self.estimate = total, done, estimate
        self.started = time.monotonic()
        self.first = done

    def begin(self, words: str) -> None:
        """A cell is being computed."""
        self.current = words
        self.show()

    def end(self, done: int) -> None:
        """So many cells are done now."""
        self.done = done
        self.show()

    def say(self, words: str) -> None:
        """Something a reader must know now."""

    def show(self) -> None:
        """Bring what is shown up to date."""

    def words(self) -> str:
        """The state in one line."""
        spent = time.monotonic() - self.started
        if not self.total:
            return f"getting ready, {duration(spent)}"
        line = f"{self.done}/{self.total} cells, {duration(spent)}"
        made = self.done - self.first
        left = self.total - self.done
        if left and made:
            line += f", about {duration(spent / made * left)} left"
        elif left and self.estimate:
            line += f", about {duration(max(0.0, self.estimate - spent))} left"
        return f"{line}; {self.current}" if self.current and left else line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the screen as it was."""


class Lines(Progress):
    """A line when a while has passed, for logs."""

    def __init__(self, file: IO[str] | None = None, every: float = EVERY) -> None:
        super().__init__()
        self.file = file or sys.stderr
        self.every = every
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def say(self, words: str) -> None:
        """Write a line."""
        print(words, file=self.file, flush=True)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._tick, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _tick(self) -> None:
        while not self._stop.wait(self.every):
            self.say(self.words())


class Bar(Progress):
    """A live line with a bar, for terminals."""

    def __init__(self) -> None:
        super().__init__()
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Rich

        self._rich = Rich(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            transient=True,
        )
        self._task: Any = None

    def start(self, total: int, done: int, estimate: float = 0.0) -> None:
        """Show the bar."""
        super().start(total, done, estimate)
        self._task = self._rich.add_task("", total=total, completed=done, left="")

    def say(self, words: str) -> None:
        """Write a line above the bar."""
        self._rich.console.print(words, markup=False, highlight=False)

    def show(self) -> None:
        """Move the bar."""
        if self._task is not None:
            left = self.words().partition(", about ")[2].partition(";")[0]
            self._rich.update(
                self._task, completed=self.done, description=self.current[:48], left=left
            )

    def __enter__(self) -> Self:
        self._rich.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._rich.stop()


def progress_for(file: IO[str] | None = None) -> Progress:
    """The bar on a terminal, lines elsewhere."""
    file = file or sys.stderr
    return Bar() if file.isatty() else Lines(file)
