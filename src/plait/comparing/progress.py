"""How far a study is: a bar on a terminal, a line every thirty seconds elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import IO, TYPE_CHECKING, Any, Self

from plait.comparing.words import clock, listed

if TYPE_CHECKING:
    from plait.comparing.forecast import Forecast

EVERY = 30.0


class Progress:
    """Shows which cells of a study run and how many are done. The base class shows nothing.

    ``forecast`` tells how long the rest takes, where that is known.
    """

    def __init__(self) -> None:
        self.total = self.done = 0
        self.forecast: Forecast | None = None
        self.running: dict[str, tuple[str, float]] = {}  # name and since when, by key
        self.started = time.monotonic()

    def start(self, total: int, done: int) -> None:
        """Say how many cells there are and how many need no computing."""
        self.total, self.done = total, done
        self.started = time.monotonic()

    def begin(self, name: str, key: str = "") -> None:
        """A cell is being computed by this process."""
        self.running = {key: (name, time.monotonic())}
        if self.forecast is not None:
            self.forecast.begin(key)
        self.show()

    def end(self, done: int, key: str = "") -> None:
        """The cell is over; so many are done now."""
        self.done = done
        self.running.pop(key, None)
        if self.forecast is not None:
            self.forecast.end(key)
        self.show()

    def follow(self, done: int, names: Mapping[str, str], settled: Callable[[str], bool]) -> None:
        """Take over what other processes do: how many cells are done, and which run, by key."""
        now = time.monotonic()
        self.done = done
        self.running = {key: self.running.get(key, (name, now)) for key, name in names.items()}
        if self.forecast is not None:
            self.forecast.follow(names, settled)
        self.show()

    def replan(self, total: int, missing: Collection[str]) -> None:
        """Other cells than was thought at first are needed: how many in all, and the missing."""
        self.total = total
        if self.forecast is not None:
            self.forecast.replan(missing)
        self.show()

    def say(self, words: str) -> None:
        """Something a reader must know now."""

    def show(self) -> None:
        """Bring what is shown up to date."""

    def words(self) -> str:
        """The state in one line."""
        spent = clock(time.monotonic() - self.started)
        if not self.total:
            return f"getting ready, {spent}"
        line = ", ".join(filter(None, [f"{self.done}/{self.total} cells", spent, self.left()]))
        return f"{line}; {self.names()}" if self.done < self.total and self.running else line

    def left(self) -> str:
        """How long the rest takes, in words; empty where that is not known, or nothing is left."""
        if self.forecast is None or self.done >= self.total:
            return ""
        seconds = self.forecast.left()
        return f"about {clock(seconds)} left" if seconds >= 1 else ""

    def names(self) -> str:
        """The cells that run, and for how long each has."""
        now = time.monotonic()
        running = list(self.running.values())  # another thread may be writing
        return listed([f"{name} ({clock(now - began)})" for name, began in running])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
        from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Rich
        from rich.text import Text

        class Live(ProgressColumn):
            """Words that are asked for whenever the line is drawn."""

            def __init__(self, words: Callable[[], str]) -> None:
                super().__init__()
                self.words = words

            def render(self, task: Any) -> Text:  # noqa: ARG002
                """A label is no markup, and never breaks the line."""
                return Text(self.words(), overflow="ellipsis", no_wrap=True)

        self._rich = Rich(
            BarColumn(24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            Live(self.left),
            Live(self.names),
            transient=True,
        )
        self._task: Any = None

    def start(self, total: int, done: int) -> None:
        """Show the bar."""
        super().start(total, done)
        self._task = self._rich.add_task("", total=total, completed=done)

    def say(self, words: str) -> None:
        """Write a line above the bar."""
        self._rich.console.print(words, markup=False, highlight=False)

    def show(self) -> None:
        """Move the bar."""
        if self._task is not None:
            self._rich.update(self._task, completed=self.done, total=self.total)

    def __enter__(self) -> Self:
        self._rich.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._rich.stop()


def progress_for(file: IO[str] | None = None) -> Progress:
    """The bar on a terminal, lines elsewhere."""
    file = file or sys.stderr
    return Bar() if file.isatty() else Lines(file)
