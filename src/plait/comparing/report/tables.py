"""The tables of a report as plain rows: leaderboard, help and harm, and every task."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from markupsafe import Markup

from plait.comparing import words
from plait.comparing.report import numbers
from plait.comparing.report.glossary import lower, metric
from plait.comparing.report.whiskers import Scale, Shades, verdict, whisker
from plait.comparing.results import UNDEFINED, Interval, Results, Standing, TaskScore

SHOWN = 40  # tasks in a table before the rest is left to the script, the CSV or a summary
ACROSS = 12  # strategies that stand side by side on a page
NAMED = 2  # helped or harmed tasks named in a row of the leaderboard
DATA_BUDGET = 1_000_000  # bytes of figures in the page
MARKS = {"help": "▲", "harm": "▼", "noise": "≈", "none": ""}
WORDS = {"help": "helped", "harm": "harmed", "noise": "within noise", "none": "undefined"}


class Tables:
    """Results, looked up in the ways the tables need."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.scores: dict[str, dict[str, TaskScore]] = {}
        for score in results.scores:
            self.scores.setdefault(score.strategy, {})[score.task] = score
        self.about: dict[str, Mapping[str, Any]] = {str(t.get("name")): t for t in results.tasks}
        seen = {score.task: None for score in results.scores}
        self.tasks: list[str] = list(dict.fromkeys([*self.about, *seen]))
        self.by_strategy = {way: list(scores.values()) for way, scores in self.scores.items()}

    @cached_property
    def measured(self) -> list[Standing]:
        """Strategies with scores, best first."""
        return [s for s in self.results.standings if not s.failed and s.strategy in self.scores]

    @cached_property
    def focus(self) -> str:
        """The strategy that the task table opens with: the chosen one where it says something."""
        ways = [s for s in self.measured if s.strategy != "separate"]
        ways.sort(key=lambda s: (not s.chosen, s.baseline))
        return ways[0].strategy if ways else "separate"

    def ranking(self, task: str) -> str:
        """The metric that ranks a task; the first one measured where the study does not say."""
        named = self.about.get(task, {}).get("metric")
        if named:
            return str(named)
        for scores in self.scores.values():
            if task in scores and scores[task].metrics:
                return next(iter(scores[task].metrics))
        return ""

    def figure(self, way: str, task: str, name: str = "") -> Interval:
        """A task's figure under a strategy: its ranking metric, or the named one."""
        score = self.scores.get(way, {}).get(task)
        return score.metrics.get(name or self.ranking(task), UNDEFINED) if score else UNDEFINED

    def gain(self, way: str, task: str) -> Interval:
        """A task's gain under a strategy; zero by definition for ``separate``."""
        score = self.scores.get(way, {}).get(task)
        if score is None:
            return UNDEFINED
        if way == "separate" and not score.gain.defined and self.figure(way, task).defined:
            return Interval(0.0, 0.0, 0.0)
        return score.gain

    def reason(self, way: str, task: str) -> str:
        """Why a gain is undefined."""
        score = self.scores.get(way, {}).get(task)
        if score is None:
            return "not measured"
        return score.reason or "the metric is undefined"

    @cached_property
    def changed(self) -> list[str]:
        """Tasks by how much any network changes them beyond noise: helped and harmed in turn."""
        ways = [s.strategy for s in self.measured if s.strategy != "separate" and not s.baseline]
        most: dict[str, tuple[float, float]] = {}
        for task in self.tasks:
            gains = [self.gain(way, task) for way in ways or [self.focus]]
            sizes = [(g.value or 0.0) * (1.0 if g.excludes_zero else 0.01) for g in gains]
            most[task] = max(sizes, default=0.0), min(sizes, default=0.0)
        helped = sorted(self.tasks, key=lambda task: -most[task][0])
        harmed = sorted(self.tasks, key=lambda task: most[task][1])
        turns = (task for pair in zip(helped, harmed, strict=True) for task in pair)
        return list(dict.fromkeys(turns))

    @cached_property
    def task_scale(self) -> Scale:
        """One scale of gains for every row of the task table."""
        networks = {s.strategy for s in self.measured if not s.baseline}
        gains = [x.gain for x in self.results.scores if x.strategy in networks]
        ends = sorted(e for g in gains for e in (g.low, g.high, g.value) if e is not None)
        if len(ends) > 400:  # a few extreme tasks must not flatten hundreds of others
            cut = len(ends) // 200
            gains = [Interval(ends[cut]), Interval(ends[-1 - cut])]
        return Scale.of(gains)


# -- leaderboard -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One row of the leaderboard, as it is read."""

    rank: str
    standing: Standing
    line: Markup
    gain: str
    bounds: str
    helped: str
    harmed: str
    size: str
    active: str
    training: str
    memory: str
    latency: str


def leaderboard(results: Results) -> tuple[list[Row], Scale]:
    """The rows in the order of the standings, and the scale of their whiskers."""
    ways = [s for s in results.standings if not s.failed]
    scale = Scale.of((s.gain for s in ways if not s.baseline), (s.gain for s in ways if s.baseline))
    rows, place = [], 0
    for standing in results.standings:
        place += not standing.failed
        rows.append(_row(standing, place, scale))
    return rows, scale


def _row(standing: Standing, place: int, scale: Scale) -> Row:
    cost = standing.cost
    active = "" if cost.active in (None, cost.parameters) else words.count(cost.active)
    return Row(
        rank="–" if standing.failed else "=" if standing.tied else str(place),
        standing=standing,
        line=whisker(standing.gain, scale, plain=standing.baseline),
        gain=numbers.figure(standing.gain, signed=True),
        bounds=numbers.bounds(standing.gain, signed=True),
        helped=some(standing.helped), harmed=some(standing.harmed),
        size=words.count(cost.parameters), active=active,
        training=words.duration(cost.seconds), memory=numbers.memory(cost.memory),
        latency=words.duration(cost.latency),
    )  # fmt: skip


def failures(results: Results) -> list[tuple[str, str, str]]:
    """Strategy, seeds and error of the cells that did not finish, equal errors together."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for failure in results.failures:
        seeds.setdefault((failure.strategy, failure.error.strip()), []).append(failure.seed)
    return [(way, ", ".join(found), error) for (way, error), found in seeds.items()]


def told(value: Any) -> str:
    """Plain data in words: a line of the environment."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {told(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(told(item) for item in value)
    return json.dumps(value, default=str)


def some(names: Sequence[str], most: int = NAMED) -> str:
    """A few names and the number of the rest."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


# -- help and harm ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One gain of the heat map."""

    text: str
    shade: str
    hover: str
    mark: str


@dataclass(frozen=True)
class Heat:
    """Gains of tasks × strategies; ``turned`` puts the strategies down the side."""

    down: Sequence[str]
    across: Sequence[str]
    cells: Sequence[Sequence[Cell]]
    turned: bool
    baselines: frozenset[str]
    chosen: str
    unit: float
    left_out: int


def heat(tables: Tables) -> Heat | None:
    """The picture of help and harm: at most ``SHOWN`` tasks, those helped and harmed most."""
    standings = [s for s in tables.measured if s.strategy != "separate"]
    standings.sort(key=lambda s: s.baseline)
    ways = [s.strategy for s in standings]
    tasks = tables.tasks if len(tables.tasks) <= SHOWN else tables.changed[:SHOWN]
    if not ways or not tasks:
        return None

    def order(task: str) -> float:
        value = tables.gain(tables.focus, task).value
        return float("inf") if value is None else -value

    tasks = sorted(tasks, key=order)
    networks = [s.strategy for s in standings if not s.baseline] or ways
    shades = Shades.of(tables.gain(way, task) for way in networks for task in tasks)
    few = len(tasks) <= 6 or len(ways) > ACROSS  # the shorter side across, where it matters
    turned = len(tasks) <= len(ways) and few
    down, across = (ways, tasks) if turned else (tasks, ways)
    cells = [[_cell(tables, *((a, b) if turned else (b, a)), shades) for b in across] for a in down]
    return Heat(
        down, across, cells, turned, frozenset(s.strategy for s in standings if s.baseline),
        next((s.strategy for s in standings if s.chosen), ""), shades.unit,
        len(tables.tasks) - len(tasks),
    )  # fmt: skip


def _cell(tables: Tables, way: str, task: str, shades: Shades) -> Cell:
    gain = tables.gain(way, task)
    mark = verdict(gain)
    if mark == "none":
        return Cell("undefined", "none", tables.reason(way, task), "")
    hover = f"{task} under {way}: {numbers.both(gain, signed=True)} %, {WORDS[mark]}"
    text = numbers.short(round(gain.value or 0.0, 1 if shades.unit < 5 else 0))
    return Cell(text, shades.shade(gain), hover, "" if mark == "noise" else MARKS[mark])


# -- every task ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskRow:
    """One row of the task table, as it is read before the script takes over."""

    task: str
    kind: str
    train: str
    test: str
    metric: str
    separate: Interval
    figure: Interval
    gain: Interval
    line: Markup
    verdict: str
    reason: str


def first_rows(tables: Tables) -> list[TaskRow]:
    """All tasks under the focus; where they are many, those that it harms and helps most."""
    way, tasks = tables.focus, tables.tasks
    if len(tasks) > SHOWN:
        known = [task for task in tasks if tables.gain(way, task).defined]
        known.sort(key=lambda task: tables.gain(way, task).value or 0.0)
        tasks = known[:12] + known[-12:]
    rows = []
    for task in tasks:
        about, gain = tables.about.get(task, {}), tables.gain(way, task)
        rows.append(
            TaskRow(
                task, str(about.get("kind", "")), labels(about, "train"), labels(about, "test"),
                tables.ranking(task), tables.figure("separate", task),
                tables.figure(way, task), gain, whisker(gain, tables.task_scale), verdict(gain),
                tables.reason(way, task),
            )
        )  # fmt: skip
    return rows


def labels(about: Mapping[str, Any], split: str) -> str:
    """How many labels a task has in a split."""
    number = about.get(split)
    return f"{number:,}" if isinstance(number, int) else ""


def task_data(tables: Tables) -> tuple[dict[str, Any], str]:
    """Everything the script shows, compact, and a sentence where something had to be left out.

    Figures are flat lists of value, low, high for each task in turn, already rounded.
    """
    tasks, left_out = tables.tasks, ""
    data = _task_data(tables, tasks, every=True)
    if _bytes(data) > DATA_BUDGET:
        data = _task_data(tables, tasks, every=False)
        left_out = "Only the ranking metric of each task is shown here; the CSV has the others."
    if _bytes(data) > DATA_BUDGET:
        most = int(len(tasks) * DATA_BUDGET / _bytes(data) * 0.95)
        wanted = set(tables.changed[:most])
        data = _task_data(tables, [task for task in tasks if task in wanted], every=False)
        left_out = (
            f"The {most} of {len(tasks)} tasks helped and harmed most are shown, with their "
            "ranking metric; the CSV has all."
        )
    return data, left_out


def _task_data(tables: Tables, tasks: Sequence[str], *, every: bool) -> dict[str, Any]:
    ways = [s.strategy for s in tables.measured]
    names = list(dict.fromkeys(tables.ranking(task) for task in tasks))
    if every:
        more = (name for score in tables.results.scores for name in score.metrics)
        names = list(dict.fromkeys([*names, *more]))
    place = {name: i for i, name in enumerate(names)}
    abouts = [tables.about.get(task, {}) for task in tasks]
    reasons: dict[str, int] = {}
    figures, gains, verdicts, why = [], [], [], []
    for way in ways:
        shown = names if every else [""]
        figures.append([_flat(tables.figure(way, t, name) for t in tasks) for name in shown])
        each = [tables.gain(way, task) for task in tasks]
        gains.append(_flat(each))
        verdicts.append("".join({"help": "+", "harm": "-", "noise": "=", "none": "?"}[verdict(g)]
                                for g in each))  # fmt: skip
        why.append({
            i: reasons.setdefault(tables.reason(way, task), len(reasons))
            for i, task in enumerate(tasks) if not each[i].defined
        })  # fmt: skip
    return {
        "tasks": tasks,
        "kinds": [str(about.get("kind", "")) for about in abouts],
        "train": [_whole(about.get("train")) for about in abouts],
        "test": [_whole(about.get("test")) for about in abouts],
        "metrics": [metric(name) for name in names],
        "lower": [lower(name) for name in names],
        "ranking": [place[tables.ranking(task)] for task in tasks],
        "ways": ways,
        "plain": [s.baseline for s in tables.measured],
        "focus": ways.index(tables.focus) if tables.focus in ways else 0,
        "separate": ways.index("separate") if "separate" in ways else -1,
        "every": every,
        "figures": figures,
        "gains": gains,
        "verdicts": verdicts,
        "reasons": list(reasons),
        "why": why,
        "scale": [tables.task_scale.low, tables.task_scale.high],
    }


def _flat(intervals: Iterable[Interval]) -> list[float | str | None] | None:
    """Value, low, high of each in one list; None where nothing is known."""
    found = [number for interval in intervals for number in numbers.rounded(interval)]
    return found if any(number is not None for number in found) else None


def _whole(number: object) -> int | None:
    return number if isinstance(number, int) else None


def _bytes(data: Mapping[str, Any]) -> int:
    return len(json.dumps(data, separators=(",", ":")))
