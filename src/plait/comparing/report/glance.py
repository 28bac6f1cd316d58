"""The picture beside the answer: what the strategy to use does to each task."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from markupsafe import Markup

from plait.comparing.report import numbers
from plait.comparing.report.tables import Tables
from plait.comparing.report.whiskers import Scale, axis, verdict, whisker

MOST = 8  # tasks in the picture


@dataclass(frozen=True)
class Glance:
    """The gains of some tasks under a strategy, and how many it helps and harms of all."""

    way: str
    axis: Markup
    rows: list[tuple[str, Markup, str, str]]  # task, whisker, gain, verdict
    counts: list[tuple[str, int]]  # verdict and number of tasks
    total: int


def glance(tables: Tables) -> Glance | None:
    """The picture for the chosen strategy; None where separate models are to be used."""
    way = next((s.strategy for s in tables.measured if s.chosen), "separate")
    if way == "separate":
        return None
    gains = {task: tables.gain(way, task) for task in tables.tasks}
    shown = [task for task in tables.tasks if gains[task].defined]
    if len(shown) > MOST:  # those it harms and helps most, in their order
        shown.sort(key=lambda task: -(gains[task].value or 0.0))
        shown = shown[: MOST // 2] + shown[-MOST // 2 :]
    scale = Scale.of(gains[task] for task in shown)
    counts = Counter(verdict(gain) for gain in gains.values())
    return Glance(
        way=way,
        axis=axis(scale),
        rows=[
            (task, whisker(gains[task], scale), numbers.figure(gains[task], signed=True),
             verdict(gains[task]))
            for task in shown
        ],
        counts=[(word, counts[word]) for word in ("help", "noise", "harm", "none") if counts[word]],
        total=len(tables.tasks),
    )  # fmt: skip
