"""What is shown while a study runs."""

from __future__ import annotations

import io
import time

import pytest

from plait.comparing.forecast import Forecast
from plait.comparing.progress import Bar, Lines, Progress, progress_for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_are_written_from_time_to_time() -> None:
    file = io.StringIO()
    with Lines(file, every=0.02) as lines:
        lines.forecast = Forecast({"k": 100.0})
        lines.start(10, 2)
        lines.begin("joint seed 0", "k")
        time.sleep(0.1)
    first = file.getvalue().splitlines()[0]
    assert first == "2/10 cells, 0 s, about 1 min 40 s left; joint seed 0 (0 s)"
    count = len(file.getvalue().splitlines())
    time.sleep(0.05)
    assert len(file.getvalue().splitlines()) == count


def test_all_cells_that_workers_compute_are_named_with_their_times() -> None:
    progress = Progress()
    progress.start(10, 2)
    progress.follow(2, {"a": "joint seed 0", "b": "merged seed 1"}, {"c"}.__contains__)
    name, began = progress.running["a"]
    progress.running["a"] = name, began - 70
    progress.follow(3, {"a": "joint seed 0", "d": "prior"}, {"b", "c"}.__contains__)
    assert progress.words() == "3/10 cells, 0 s; joint seed 0 (1 min 10 s) and prior (0 s)"


def test_a_finished_study_names_no_cell() -> None:
    progress = Progress()
    progress.start(3, 2)
    progress.started -= 60
    progress.begin("joint", "k")
    progress.end(3, "k")
    assert progress.words() == "3/3 cells, 1 min"


def test_the_bar_is_for_terminals_only() -> None:
    assert isinstance(progress_for(Terminal()), Bar)
    assert isinstance(progress_for(io.StringIO()), Lines)


def test_the_bar_names_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import rich

    file = Terminal()
    monkeypatch.setattr(rich, "_console", rich.console.Console(file=file, width=100))
    with Bar() as bar:
        bar.forecast = Forecast({"k": 100.0})
        bar.start(3, 0)
        bar.begin("[red]joint[/red]", "k")  # a label is no markup
        time.sleep(0.2)
    shown = file.getvalue()
    assert "[red]joint[/red] (0 s)" in shown
    assert "0/3" in shown
    assert "about 1 min 40 s left" in shown


def test_a_line_before_the_first_cell_is_known_says_that_it_gets_ready() -> None:
    """Reading tables and frozen features can take longer than the wait for a line."""
    assert Lines().words().startswith("getting ready")
