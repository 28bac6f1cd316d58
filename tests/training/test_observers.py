from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest
import torch
from training_toys import Deck, make_network

from plait.balancing.base import Signals
from plait.balancing.graddrop import GradDrop
from plait.balancing.uncertainty import Uncertainty
from plait.training import EventLog, fit, progress
from plait.training.observers import Bar, Lines, read_events


def test_windows_hold_the_means_of_the_steps_a_task_was_in(network, tasks):
    log, losses = EventLog(every=3), []
    deck = Deck(tasks, missing=lambda step: ["real.1"] if step in (1, 4, 5) else [])

    def keep(problem, signals):
        losses.append(dict(zip(signals.tasks, signals.losses.tolist(), strict=True)))

    fit(network, deck, Uncertainty(), steps=7, observers=[log, keep])
    steps = [e for e in log.events if e["event"] == "step"]
    assert [e["step"] for e in steps] == [3, 6]
    first = steps[0]["losses"]
    assert first["real.1"] == pytest.approx(
        (losses[0]["real.1"] + losses[2]["real.1"]) / 2, rel=1e-5
    )
    assert first["binary.0"] == pytest.approx(sum(x["binary.0"] for x in losses[:3]) / 3, rel=1e-5)
    assert steps[1]["losses"]["real.1"] == pytest.approx(losses[3]["real.1"], rel=1e-5)
    assert steps[0]["weights"]["real.1"] == pytest.approx(0.5, abs=0.05)
    assert "real.1" in steps[1]["losses"]


def test_a_task_absent_for_a_whole_window_is_not_in_it(network, tasks):
    log = EventLog(every=2)
    deck = Deck(tasks, missing=lambda step: ["real.1"] if step > 1 else [])
    fit(network, deck, GradDrop(), steps=4, observers=[log])
    steps = [e for e in log.events if e["event"] == "step"]
    assert ["real.1" in e["losses"] for e in steps] == [True, False]
    assert all("weights" not in e for e in steps)  # its update is no combination of gradients


def test_lines_are_json_in_the_order_of_the_steps(network, deck, tmp_path):
    path = tmp_path / "logs" / "events.jsonl"
    scores = iter([float("nan"), 2.0, 3.0])
    given = {"validate": lambda _: {"real.1": next(scores)}, "validate_every": 4}
    fit(network, deck, steps=10, observers=[EventLog(path, every=2)], **given)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [e["step"] for e in events] == sorted(e["step"] for e in events)
    valid = [e for e in events if e["event"] == "valid"]
    assert [(e["step"], e["pass"], e["losses"]["real.1"]) for e in valid] == [
        (4, 1.0, None),
        (8, 2.0, 2.0),
        (10, 2.5, 3.0),
    ]


def test_a_training_taken_up_again_forgets_the_steps_it_repeats(tasks, tmp_path):
    path, saved = tmp_path / "events.jsonl", tmp_path / "checkpoint"

    def run(cut: int | None) -> None:
        def watch(problem, signals):
            if problem.step == cut:
                raise InterruptedError

        log = EventLog(path, every=1)
        given = {"checkpoint": saved, "checkpoint_every": 4, "observers": [log, watch]}
        fit(make_network(tasks), Deck(tasks), steps=12, **given)

    with pytest.raises(InterruptedError):
        run(6)
    assert [e["step"] for e in read_events(path)] == [1, 2, 3, 4, 5, 6, 7]
    path.write_text(path.read_text() + '{"event": "ste')  # cut off while writing
    run(None)
    assert [e["step"] for e in read_events(path)] == list(range(1, 13))


def test_a_line_comes_after_every_interval(network, deck):
    file = io.StringIO()
    fit(network, deck, steps=5, observers=[Lines("joint, seed 0:", seconds=0.0, file=file)])
    lines = file.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[-1].startswith("joint, seed 0: step 5/5, mean loss ")
    quiet = io.StringIO()
    fit(network, deck, steps=5, observers=[Lines(seconds=60.0, file=quiet)])
    assert not quiet.getvalue()


def test_progress_is_a_bar_on_a_terminal_only(network, deck, monkeypatch):
    assert isinstance(progress("x"), Lines)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert isinstance(progress("x"), Bar)
    bar = Bar("joint")
    fit(network, deck, steps=4, observers=[bar], validate=lambda _: {"real.1": 0.25})
    (task,) = bar._bar.tasks
    assert (task.completed, task.total, task.fields["loss"]) == (4, 4, "validation 0.25")
    assert bar._bar.finished


def test_many_tasks_are_written_less_often():
    def windows(tasks: int) -> int:
        return sum(1 for e in _logged(tasks, 400) if e["event"] == "step")

    assert windows(2) == 200
    assert windows(100) == 100


def _logged(count: int, steps: int) -> list[dict[str, object]]:
    log, names = EventLog(), tuple(f"t{i}" for i in range(count))
    log.start(0, steps)
    layout = SimpleNamespace(names=names)
    units = SimpleNamespace(places=None)
    told = Signals.of(dict.fromkeys(names, 1.0), weights=torch.ones(count))
    for step in range(steps):
        log(SimpleNamespace(step=step, units=units, ground=SimpleNamespace(layout=layout)), told)
    return log.events
