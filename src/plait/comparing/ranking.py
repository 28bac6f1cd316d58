"""Strategies measured on the same rows: their gains, replicate by replicate, to be compared."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.special import ndtr

from plait.comparing.results import UNDEFINED, Interval, TaskScore
from plait.metrics.base import Floats

LEAST_DEFINED = 0.5  # share of replicates that must have a value for an interval to mean anything

Run = tuple[str, str]  # split and seed


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The figures of all strategies on the same rows, and what is needed to compare them.

    ``metric`` is the ranking metric where all tasks share one. ``seeds`` counts a strategy's cells,
    ``incomplete`` names the tasks it gave no predictions for; such a strategy has no overall gain.
    ``gains`` holds, for each set of runs that two strategies have in common with the reference, the
    gains [T, 1 + R] of each strategy: the value first, then its replicates. ``blocks`` holds each
    one's ranking metrics [T, K] in the runs of the study, signed so that higher is better, NaN
    where there is none.
    """

    reference: str
    strategies: tuple[str, ...]
    tasks: tuple[str, ...]
    metric: str
    scores: tuple[TaskScore, ...]
    gain_metrics: Mapping[str, Interval]
    score: Mapping[str, Interval]
    seeds: Mapping[str, int]
    incomplete: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]
    runs: Mapping[str, tuple[Run, ...]] = field(repr=False)
    gains: Mapping[tuple[Run, ...], Mapping[str, Floats]] = field(repr=False)
    blocks: Mapping[str, Floats] = field(repr=False)

    @cached_property
    def gain(self) -> Mapping[str, Interval]:
        """Δm of each strategy over the tasks, by their ranking metrics."""
        return {name: self.mean_gain(name) for name in self.strategies}

    def of(self, strategy: str) -> dict[str, TaskScore]:
        """The scores of one strategy by task."""
        return {score.task: score for score in self.scores if score.strategy == strategy}

    def mean_gain(
        self, strategy: str, tasks: Collection[str] | None = None, *, replaced: Collection[str] = ()
    ) -> Interval:
        """Δm over the given tasks; ``replaced`` ones count as if ``reference`` served them."""
        draws = self._draws(strategy, self._common(strategy))
        if draws is None:
            return UNDEFINED
        draws = draws.copy()
        out = [at for at, name in enumerate(self.tasks) if name in replaced]
        draws[out] = np.where(np.isfinite(draws[out]), 0.0, np.nan)
        kept = [at for at, name in enumerate(self.tasks) if tasks is None or name in tasks]
        return pivotal(mean_defined(draws[kept]))

    def difference(self, one: str, other: str) -> Interval:
        """The paired difference in Δm, one minus the other, over their common runs and tasks."""
        common = self._common(one, other)
        first, second = self._draws(one, common), self._draws(other, common)
        if first is None or second is None:
            return UNDEFINED
        both = np.isfinite(first[:, 0]) & np.isfinite(second[:, 0])
        return pivotal(mean_defined(first[both] - second[both]))

    def p_harmed(self, strategy: str) -> dict[str, float]:
        """Chance of a task's gain being this low if it were 0, by the spread of its replicates."""
        draws = self._draws(strategy, self._common(strategy))
        if draws is None:
            return {}
        found = {}
        for name, gain in zip(self.tasks, draws, strict=True):
            if not pivotal(gain).defined:
                continue
            defined = gain[1:][np.isfinite(gain[1:])]
            spread = defined.std()
            if spread > 0:
                found[name] = float(ndtr((2 * gain[0] - defined.mean()) / spread))
        return found

    def _common(self, *strategies: str) -> tuple[Run, ...]:
        return common(self.runs, self.reference, *strategies)

    def _draws(self, strategy: str, runs: tuple[Run, ...]) -> Floats | None:
        if strategy in self.incomplete:
            return None
        return self.gains.get(runs, {}).get(strategy)


def interval(draws: Floats) -> Interval:
    """The value [0] with the 95 % percentile interval of its replicates [1:], NaN being none.

    It keeps to a metric's range. All three are None where fewer than half the replicates have a
    value.
    """
    if not np.isfinite(draws[0]):
        return UNDEFINED
    defined = draws[1:][np.isfinite(draws[1:])]
    if len(defined) < LEAST_DEFINED * (len(draws) - 1):
        return UNDEFINED
    low, high = np.quantile(defined, [0.025, 0.975])
    return Interval(float(draws[0]), float(low), float(high))


def pivotal(draws: Floats) -> Interval:
    """The value with its 95 % basic interval, [2·value − high, 2·value − low]; for gains.

    A ratio of noisy figures is biased, by the same amount in every small task, so that a mean over
    tasks does not average it out; resampling adds the bias once more. The percentile interval lies
    that much to the wrong side (over 139 tasks of 30 rows it covers the truth 50 to 90 times in a
    hundred), the basic one takes it back (94 to 97). Davison and Hinkley, Bootstrap Methods, 1997.
    """
    around = interval(draws)
    if around.value is None or around.low is None or around.high is None:
        return around
    return Interval(around.value, 2 * around.value - around.high, 2 * around.value - around.low)


def mean_defined(draws: Floats) -> Floats:
    """The mean over the first axis of what is defined in each replicate, NaN where nothing is."""
    total = Total(draws.shape[1])
    total.add(draws)
    return total.mean()


class Total:
    """A running mean over defined values, replicate by replicate."""

    def __init__(self, width: int) -> None:
        self.sum, self.count = np.zeros(width), np.zeros(width)

    def add(self, draws: Floats) -> None:
        """Take in [..., 1 + R]; what has no value in the first place is left out altogether."""
        draws = draws.reshape(-1, draws.shape[-1])
        draws = draws[np.isfinite(draws[:, 0])]
        defined = np.isfinite(draws)
        self.sum += np.where(defined, draws, 0.0).sum(0)
        self.count += defined.sum(0)

    def mean(self) -> Floats:
        """The mean [1 + R], NaN where nothing was defined."""
        out = np.full(self.sum.shape, np.nan)
        np.divide(self.sum, self.count, out=out, where=self.count > 0)
        return out


def common(
    runs: Mapping[str, Collection[Run]], reference: str, *strategies: str
) -> tuple[Run, ...]:
    """The runs that the reference and all named strategies have, sorted."""
    shared = set(runs.get(reference, ()))
    for name in strategies:
        shared &= set(runs.get(name, ()))
    return tuple(sorted(shared))
