from __future__ import annotations

import io
import time

from plait.comparing.progress import Bar, Lines, Progress, progress_for


def test_lines_are_written_from_time_to_time() -> None:
    file = io.StringIO()
    with Lines(file, every=0.02) as lines:
        lines.start(10, 2, estimate=100)
        lines.begin("joint seed 0")
        time.sleep(0.1)
    first = file.getvalue().splitlines()[0]
    assert first.startswith("2/10 cells, 0 s, about 1 min 40 s left; joint seed 0")
    count = len(file.getvalue().splitlines())
    time.sleep(0.05)
    assert len(file.getvalue().splitlines()) == count


def test_what_is_left_follows_what_was_done() -> None:
    progress = Progress()
    progress.start(10, 2)
    progress.started -= 60
    progress.end(6)
    assert progress.words() == "6/10 cells, 1 min, about 1 min left"
    progress.end(10)
    assert progress.words() == "10/10 cells, 1 min"


def test_a_bar_is_for_terminals_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(progress_for(Terminal()), Bar)
    assert isinstance(progress_for(io.StringIO()), Lines)
    with Bar() as bar:
        bar.start(3, 0)
        bar.begin("[red]joint[/red]")  # a label is no markup
        bar.end(1)


def test_a_line_before_the_first_cell_is_known_says_that_it_gets_ready():
    """Reading tables and frozen features can take longer than the wait for a line."""
    assert Lines().words().startswith("getting ready")
