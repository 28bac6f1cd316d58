"""From predictions to figures with intervals: the ruler that every strategy is held to.

For each task and metric the value of a strategy is its mean over seeds. Its *gain* is the change
against the reference in per cent of the reference, with the sign turned so that higher is better:

    gain = ± 100 · (value − reference) / |reference|

Δm is the mean of the gains: over tasks, by each task's ranking metric (the leaderboard's order), or
over all metrics of all tasks. Both are told, for they may differ in sign. Every figure has a 95 %
interval over paired bootstrap replicates (:mod:`plait.comparing.resampling`): a metric the
percentile interval, a gain the basic one (:func:`plait.comparing.ranking.pivotal` says why).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plait.comparing.gains import CLOSE, NEITHER, divisor, gains_of, why_undefined
from plait.comparing.ranking import Ranking, Run, Total, common, interval, pivotal
from plait.comparing.resampling import Resamples
from plait.comparing.results import UNDEFINED, TaskScore
from plait.comparing.words import listed
from plait.metrics import Metric, metric_of
from plait.metrics import replicates as replicates_of
from plait.metrics.base import Floats
from plait.metrics.groups import mixed
from plait.task import Task, TaskSet

MANY = 20  # tasks from which flags raised by chance are worth a warning

DEFINITIONS: Mapping[str, str] = {
    "gain": "Δm: each task's ranking metric against separate models, as a change in per cent of "
    "their value, higher is better, averaged over the tasks.",
    "gain over metrics": "Δm over all metrics: the same change for every metric of every task, "
    "averaged over all of them.",
    "interval": "95 % of paired bootstrap resamples of the test rows (or their groups) and of the "
    "seeds lie in this range.",
    "tied": "The difference to the best lies inside the noise: its 95 % interval contains 0.",
    "harmed": "Negative transfer: worse than separate models, the whole interval below 0.",
    "helped": "Better than separate models, the whole interval above 0.",
    "undefined": "The metric has no value on these rows; it is left out of means and counted.",
}


@dataclass(frozen=True)
class TaskPredictions:
    """What a model says about one task's evaluation rows, all arrays aligned.

    ``rows`` [n] are dataset row numbers, ``units`` [n] what is resampled, ``truth`` and
    ``prediction`` as metrics read them (real targets in the user's units), ``weight`` [n] the
    weights of the labels, ``group`` [n] whose rows they are.
    """

    rows: NDArray[Any]
    units: NDArray[Any]
    truth: NDArray[Any]
    prediction: NDArray[Any]
    weight: NDArray[Any] | None = None
    group: NDArray[Any] | None = None


@dataclass(frozen=True)
class CellPredictions:
    """The predictions of one strategy with one seed on one split.

    ``seed`` None marks a strategy without randomness: its one cell stands for every seed.
    """

    strategy: str
    seed: int | str | None
    predictions: Mapping[str, TaskPredictions]
    split: int | str = 0


def rank(
    cells: Sequence[CellPredictions],
    tasks: TaskSet,
    *,
    reference: str = "separate",
    replicates: int = 1000,
    seed: int = 0,
) -> Ranking:
    """Measure every strategy on the same rows; the figures depend on no order.

    Raises ``ValueError`` where a strategy has two cells for one seed, where strategies were not
    measured on the same rows and truth, and for predictions that are not finite, naming the task.
    """
    found = _Measured(_by_run(cells, tasks), tasks, reference, replicates, seed)
    for name in sorted(found.resamples.pool_of, key=found.resamples.pool_of.__getitem__):
        found.measure(tasks[name])
    return found.ranking(tuple(dict.fromkeys(cell.strategy for cell in cells)))


class _Measured:
    """The figures of a study as they are worked out, task by task."""

    def __init__(
        self,
        table: Mapping[str, Mapping[Run, CellPredictions]],
        tasks: TaskSet,
        reference: str,
        replicates: int,
        seed: int,
    ) -> None:
        self.table, self.tasks, self.reference = table, tasks, reference
        units: dict[str, list[NDArray[Any]]] = {}
        for mine in table.values():
            for cell in mine.values():
                for name, given in cell.predictions.items():
                    units.setdefault(name, []).append(np.unique(given.units))
        self.resamples = Resamples(
            {name: np.concatenate(some) for name, some in units.items()},
            replicates=replicates, seed=seed,
        )  # fmt: skip
        self.width = 1 + self.resamples.replicates
        self.runs = {name: tuple(mine) for name, mine in table.items()}
        self.every_run = sorted({run for mine in table.values() for run in mine})
        shape = (len(tasks), len(self.every_run))
        self.blocks = {name: np.full(shape, np.nan) for name in table}
        pairs = {common(self.runs, reference, a, b) for a in self.runs for b in self.runs}
        self.gains: dict[tuple[Run, ...], dict[str, Floats]] = {
            runs: {
                name: np.full((len(tasks), self.width), np.nan)
                for name, own in self.runs.items()
                if set(runs) <= set(own)
            }
            for runs in pairs
            if runs
        }
        self.every_metric = {name: Total(self.width) for name in table}
        self.score = {name: Total(self.width) for name in table}
        self.found: dict[tuple[str, str], TaskScore] = {}
        self.missing: dict[str, list[str]] = {}
        self.excluded: dict[tuple[str, str], set[str]] = {}
        self.dropped: dict[str, float] = {}
        self._weights: dict[tuple[Run, ...], Floats] = {}

    def measure(self, task: Task) -> None:
        """All strategies on one task."""
        metrics = [metric_of(name, task.kind) for name in task.metrics]
        values = self._values(task, metrics)
        for name, given in values.items():
            row = self.blocks[name][self.tasks.position[task.name]]
            for run, draws in given.items():
                row[self.every_run.index(run)] = draws[0, 0] * (1 if metrics[0].higher else -1)
        reference = values.get(self.reference, {})
        whole = {
            name: self._over_runs(given, self.runs[name])
            for name, given in values.items()
            if len(given) == len(self.runs[name])
        }
        ratios: dict[tuple[Run, ...], tuple[Floats, list[bool]]] = {}
        for runs in {*self.gains, *(common(self.runs, self.reference, name) for name in whole)}:
            if runs and self.reference in whole:
                ratios[runs] = divisor(self._over_runs(reference, runs))
        for name in sorted(self.table):
            if name not in whole:
                absent = [run for run in self.runs[name] if run not in values.get(name, {})]
                self._miss(name, task, absent)
                continue
            for runs, gains in self.gains.items():
                if name in gains and runs in ratios:
                    mean = self._over_runs(values[name], runs)
                    gains[name][self.tasks.position[task.name]] = gains_of(
                        metrics[:1], mean[:1], ratios[runs][0][:1]
                    )[0]
            self._score(name, task, metrics, whole[name], values[name], ratios)

    def _score(
        self,
        name: str,
        task: Task,
        metrics: Sequence[Metric],
        own: Floats,
        values: Mapping[Run, Floats],
        ratios: Mapping[tuple[Run, ...], tuple[Floats, list[bool]]],
    ) -> None:
        """Note one strategy's figures on one task."""
        figures = {m.name: interval(draws) for m, draws in zip(metrics, own, strict=True)}
        rows = sum(len(cell.predictions[task.name].rows) for cell in self.table[name].values())
        reasons = [why_undefined(m, draws, rows) for m, draws in zip(metrics, own, strict=True)]
        self.score[name].add(own[0])
        if figures[metrics[0].name].defined and np.isnan(own[0]).any():
            self.dropped[task.name] = float(np.isnan(own[0]).mean())
        gain = UNDEFINED
        runs = common(self.runs, self.reference, name)
        if runs in ratios:
            below, close = ratios[runs]
            gains = gains_of(metrics, self._over_runs(values, runs), below)
            gain = pivotal(gains[0])
            self.every_metric[name].add(gains)
            for at in np.flatnonzero(np.isnan(gains[:, 0])).tolist():
                what = CLOSE if close[at] else "undefined"
                why = f"{self.reference} is {what}" if metrics[at].higher is not None else NEITHER
                reasons[at] = reasons[at] or why
        elif not reasons[0]:
            reasons[0] = f"no seed in common with {self.reference}"
        for metric, reason in zip(metrics, reasons, strict=True):
            if reason:
                self.excluded.setdefault((metric.name, reason), set()).add(task.name)
        self.found[name, task.name] = TaskScore(
            strategy=name, task=task.name, metrics=figures, gain=gain, reason=reasons[0]
        )

    def _miss(self, name: str, task: Task, absent: Sequence[Run]) -> None:
        some = len(absent) < len(self.runs[name])
        where = f" for seed {listed([run[1] for run in absent])}" if some else ""
        self.missing.setdefault(name, []).append(task.name)
        self.found[name, task.name] = _without(name, task, f"no predictions{where}")

    def _values(self, task: Task, metrics: Sequence[Metric]) -> dict[str, dict[Run, Floats]]:
        """[M, 1 + R] of every strategy in every run; strategies must share rows and truth."""
        values: dict[str, dict[Run, Floats]] = {}
        first: dict[Run, TaskPredictions] = {}
        counts: dict[bytes, NDArray[np.uint8]] = {}
        for name, mine in self.table.items():
            done: dict[int, Floats] = {}  # a cell that stands for every seed is measured once
            for run, cell in mine.items():
                if task.name not in cell.predictions:
                    continue
                given = _in_order(cell.predictions[task.name])
                try:
                    _same_rows(first.setdefault(run, given), given)
                    if id(cell) not in done:
                        rows = given.rows.tobytes()
                        if rows not in counts:
                            counts[rows] = self.resamples.counts(task.name, given.units)
                        done[id(cell)] = replicates_of(
                            metrics, given.truth, given.prediction, counts[rows], given.weight,
                            given.group,
                        )  # fmt: skip
                except ValueError as error:
                    where = f"strategy {name!r}, seed {run[1]}, task {task.name!r}"
                    raise ValueError(f"{where}: {error}") from error
                values.setdefault(name, {})[run] = done[id(cell)]
        return values

    def _over_runs(self, values: Mapping[Run, Floats], runs: tuple[Run, ...]) -> Floats:
        """The mean over runs, [M, 1 + R], each replicate with its own draw of runs."""
        if runs not in self._weights:
            self._weights[runs] = self.resamples.seeds(runs)
        mean: Floats = np.einsum(
            "rk,kmr->mr", self._weights[runs], np.stack([values[run] for run in runs])
        )
        return mean

    def ranking(self, strategies: tuple[str, ...]) -> Ranking:
        """All that was measured, strategies and tasks in the given order."""
        unseen = {
            (name, task.name): _without(name, task, "no rows")
            for name in strategies
            for task in self.tasks
        }
        found = {**unseen, **self.found}
        metrics = {task.metrics[0] for task in self.tasks}
        metric = metrics.pop() if len(metrics) == 1 else ""
        full = [name for name in strategies if name not in self.missing]
        return Ranking(
            reference=self.reference,
            strategies=strategies,
            tasks=self.tasks.names,
            metric=metric,
            scores=tuple(found[name, task] for name in strategies for task in self.tasks.names),
            gain_metrics=dict.fromkeys(strategies, UNDEFINED)
            | {name: pivotal(self.every_metric[name].mean()) for name in full},
            score=dict.fromkeys(strategies, UNDEFINED)
            | {name: interval(self.score[name].mean()) for name in full if metric},
            seeds={name: len(set(map(id, self.table[name].values()))) for name in strategies},
            incomplete={name: tuple(missing) for name, missing in self.missing.items()},
            notes=tuple(self._notes(strategies)),
            runs=self.runs,
            gains=self.gains,
            blocks=self.blocks,
        )

    def _notes(self, strategies: tuple[str, ...]) -> Iterator[str]:
        """What a reader must know to trust the figures."""
        runs = max((len(own) for own in self.runs.values()), default=0)
        yield (
            f"Intervals: {self.width - 1} paired resamples of the {self._units()}"
            + (
                f" and of {runs} seeds."
                if runs > 1
                else "; one seed, so another training may differ."
            )
        )
        for name in strategies:
            matched = len(common(self.runs, self.reference, name))
            if name in self.missing:
                yield f"{name} gave no predictions for {listed(self.missing[name])}: not ranked."
            elif matched < max(len(self.runs[name]), len(self.runs.get(self.reference, ()))):
                yield (
                    f"{name} and {self.reference} have {matched} seeds in common; "
                    "gains compare these only."
                )
        for (metric, reason), names in sorted(self.excluded.items()):
            yield f"{metric} is left out of gains for {listed(sorted(names))}: {reason}."
        for task in self.tasks:
            yield from self._left_out(task)
        if self.dropped:
            most = 100 * max(self.dropped.values())
            yield (
                f"In some resamples (at most {most:.2g} %) {listed(sorted(self.dropped))} cannot "
                "be scored; they are dropped for the task, and means over tasks take the others."
            )
        if len(self.tasks) >= MANY:
            chance = round(len(self.tasks) * 0.025)
            yield (
                f"Each task's interval stands alone: of {len(self.tasks)} tasks about {chance} "
                f"are flagged as harmed and {chance} as helped by chance."
            )

    def _left_out(self, task: Task) -> Iterator[str]:
        """How many groups a metric by group leaves out, over the splits."""
        names = [name for name in task.metrics if metric_of(name, task.kind).grouped]
        cells = (cell for mine in self.table.values() for cell in mine.values())
        one = {cell.split: cell.predictions[task.name] for cell in cells
               if task.name in cell.predictions}  # fmt: skip
        if not names or not one:
            return
        found = [mixed(g.truth, np.asarray(g.group), g.weight) for g in one.values()]
        every = sum(groups for _, _, groups in found)
        left = every - sum(both for _, both, _ in found)
        yield (
            f"{listed(names)} of {task.name}: {left:,} of {every:,} groups hold one class only and "
            "are left out."
        )

    def _units(self) -> str:
        """What is resampled, in words."""
        given = [some for mine in self.table.values() for c in mine.values()
                 for some in c.predictions.values()]  # fmt: skip
        own = all(np.array_equal(some.units, some.rows) for some in given)
        return "rows" if own else f"{self.resamples.units} groups of rows"


def _without(name: str, task: Task, reason: str) -> TaskScore:
    figures = dict.fromkeys(task.metrics, UNDEFINED)
    return TaskScore(strategy=name, task=task.name, metrics=figures, reason=reason)


def _in_order(given: TaskPredictions) -> TaskPredictions:
    """The same predictions by ascending row, so that strategies may list rows in any order."""
    rows = np.asarray(given.rows)
    arrays = [np.asarray(some) for some in (given.units, given.truth, given.prediction)]
    more = [None if some is None else np.asarray(some) for some in (given.weight, given.group)]
    lengths = [len(rows), *map(len, arrays), *(len(some) for some in more if some is not None)]
    if len(set(lengths)) > 1:
        raise ValueError(f"rows, units, truth, prediction, weight, group have lengths {lengths}")
    order = np.argsort(rows, kind="stable")
    units, truth, prediction = (some[order] for some in arrays)
    weight, group = (None if some is None else some[order] for some in more)
    return TaskPredictions(rows[order], units, truth, prediction, weight, group)


def _same_rows(first: TaskPredictions, other: TaskPredictions) -> None:
    if first is other:
        return
    for what in ("rows", "units", "truth", "weight", "group"):
        mine, theirs = getattr(first, what), getattr(other, what)
        if (mine is None) != (theirs is None) or not (mine is None or np.array_equal(mine, theirs)):
            raise ValueError(f"{what} differ from those that another strategy was measured on")


def _by_run(
    cells: Iterable[CellPredictions], tasks: TaskSet
) -> dict[str, dict[Run, CellPredictions]]:
    """Cells by strategy and run; those without a seed stand for each run of their split."""
    cells = list(cells)
    known = {(str(c.split), str(c.seed)) for c in cells if c.seed is not None}
    table: dict[str, dict[Run, CellPredictions]] = {}
    for cell in sorted(cells, key=lambda cell: cell.strategy):
        for name in cell.predictions:
            if name not in tasks.names:
                raise ValueError(f"strategy {cell.strategy!r} predicts an unknown task {name!r}")
        runs = {(str(cell.split), str(cell.seed))}
        if cell.seed is None:
            runs = {run for run in known if run[0] == str(cell.split)} or runs
        mine = table.setdefault(cell.strategy, {})
        if not mine.keys().isdisjoint(runs):
            raise ValueError(f"strategy {cell.strategy!r} has two cells for seed {cell.seed}")
        mine.update(dict.fromkeys(runs, cell))
    return {name: dict(sorted(mine.items())) for name, mine in table.items()}
