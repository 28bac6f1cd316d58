"""A study in experiment trackers: the curves of its cells and the figures of its leaderboard.

The run folder is the truth and a tracker a view of it: everything is read from what the finished
cells have kept, so a study may be tracked at any time, from another process, and again after more
cells have finished. Cells that a tracker has are not written twice (``tracked.json``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from plait.comparing.declared import relative
from plait.comparing.gathering import seed_name
from plait.comparing.results import Results
from plait.training.observers import read_events
from plait.training.trackers import replay, tracker_for
from plait.weights.files import read_json

if TYPE_CHECKING:
    from plait.comparing.cells import Cell
    from plait.comparing.study import Study

FILE = "tracked.json"


def track(study: Study, where: Mapping[str, str | Path]) -> None:
    """Write what is new in a study to trackers: ``{"tensorboard": folder, "mlflow": folder, …}``.

    Each cell's training is a run called by its strategy and seed; the test figures of a strategy
    are in the run of its name, at the number of cells they are made of. Raises ``ValueError`` for a
    tracker that is not known or not installed, before anything is written.
    """
    check(where)
    path = study.folder / FILE
    kept: dict[str, list[str]] = read_json(path) if path.exists() else {}
    finished = _finished(study)
    for name, folder in where.items():
        key = f"{name}: {relative(Path(folder).resolve(), study.folder.resolve())}"
        there = kept.setdefault(key, [])
        fresh = {run: cell for run, cell in finished.items() if cell.key not in there}
        for run, cell in fresh.items():
            events = read_events(study.store.path(cell.key) / "events.jsonl")
            if events:
                replay(tracker_for(name, folder, run), events)
            there.append(cell.key)
        if fresh:
            for label, numbers in figures(study.results).items():
                tracker_for(name, folder, label).figures(numbers, step=len(there))
        study.store.write(FILE, kept)


def check(where: Mapping[str, str | Path]) -> None:
    """Raise ``ValueError`` for a tracker that is not known or not installed."""
    for name, folder in where.items():
        tracker_for(name, folder, "")


def _finished(study: Study) -> dict[str, Cell]:
    """The finished cells by the name of their run; a cell that stands for all seeds comes once."""
    found: dict[str, Cell] = {}
    for place, cell in study.cells().items():
        if study.store.finished(cell.key) and cell not in found.values():
            found[f"{place.label} seed {seed_name(study, place)}"] = cell
    return found


def figures(results: Results) -> dict[str, dict[str, float]]:
    """The defined figures of every strategy: its gain, its cost, and every task's metrics."""
    found: dict[str, dict[str, float | None]] = {}
    for row in results.standings:
        costs = {f"cost/{name}": value for name, value in vars(row.cost).items()}
        found[row.strategy] = {"gain": row.gain.value, **costs}
    for score in results.scores:
        own = {f"test/{score.task}/{name}": one.value for name, one in score.metrics.items()}
        found.setdefault(score.strategy, {}).update(own)
    return {
        label: {name: float(value) for name, value in numbers.items() if value is not None}
        for label, numbers in found.items()
    }
