"""Free values found by trying: at random, by a model of the score, or by an evolution strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from plait.merging.pool import Array

Score = Callable[[Array], float]


@dataclass(frozen=True, kw_only=True)
class Found:
    """The best values [D] of a search, their score, and all tries as (values, score) in order."""

    values: Array
    score: float
    tries: tuple[tuple[Array, float], ...]


@dataclass(frozen=True, kw_only=True)
class Search:
    """``trials`` tries for values whose score is low; the start is the first of them.

    ``way`` is ``random`` (uniform in the bounds), ``bayes`` (a tree of Parzen estimators, optuna)
    or ``cma`` (covariance matrix adaptation, whose first step is ``spread`` of the bounds). The
    last two need the extra ``search``.
    """

    way: Literal["random", "bayes", "cma"] = "cma"
    trials: int = 50
    spread: float = 1 / 6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.way not in ("random", "bayes", "cma"):
            raise ValueError(f"no way to search {self.way!r}; valid: random, bayes, cma")
        if self.trials < 1:
            raise ValueError(f"trials must be at least 1, got {self.trials}")
        if not 0 < self.spread <= 1:
            raise ValueError(f"spread must lie in (0, 1], got {self.spread:g}")

    def run(self, score: Score, start: Array, low: float, high: float) -> Found:
        """Search from ``start`` [D] within the bounds.

        Raises ``ValueError`` where no try has a finite score, or the extra is missing.
        """
        tries: list[tuple[Array, float]] = []

        def judge(values: Array) -> float:
            found = float(score(values))
            tries.append((values.copy(), found))
            return found

        judge(np.asarray(start, np.float64))
        ways = {"random": self._random, "bayes": self._bayes, "cma": self._cma}
        for values, tell in ways[self.way](tries[0][0], low, high, tries[0][1]):
            if len(tries) >= self.trials:
                break
            tell(judge(values))
        finite = [one for one in tries if np.isfinite(one[1])]
        if not finite:
            raise ValueError(f"none of the {len(tries)} tries of the search had a finite score")
        values, best = min(finite, key=lambda one: one[1])
        return Found(values=values, score=best, tries=tuple(tries))

    # Each gives values and what is to be told their score.

    def _random(self, start: Array, low: float, high: float, _: float) -> Iterator[Any]:
        draw = np.random.Generator(np.random.Philox(key=self.seed))
        while True:
            yield draw.uniform(low, high, len(start)), lambda _: None

    def _bayes(self, start: Array, low: float, high: float, first: float) -> Iterator[Any]:
        optuna = _extra("optuna", self.way)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=self.seed))
        names = [f"v{number}" for number in range(len(start))]
        axis = optuna.distributions.FloatDistribution(low, high)
        axes = dict.fromkeys(names, axis)
        if np.isfinite(first):
            params = dict(zip(names, start.clip(low, high).tolist(), strict=True))
            known = optuna.trial.create_trial(params=params, distributions=axes, value=first)
            study.add_trial(known)
        failed = optuna.trial.TrialState.FAIL
        while True:
            trial = study.ask(axes)

            def tell(value: float, trial: Any = trial) -> None:
                told = {"values": value} if np.isfinite(value) else {"state": failed}
                study.tell(trial, **told)

            yield np.array([trial.params[name] for name in names]), tell

    def _cma(self, start: Array, low: float, high: float, first: float) -> Iterator[Any]:
        cma = _extra("cma", self.way)
        draw = np.random.Generator(np.random.Philox(key=self.seed))
        told = {
            "bounds": [low, high],
            "seed": np.nan,  # numpy's global state stays as it is
            "randn": lambda *shape: draw.standard_normal(shape),
            "verbose": -9,
        }
        one = len(start) == 1  # the strategy has two dimensions at least; the second is ignored
        begin = np.repeat(start, 2) if one else start
        evolution = cma.CMAEvolutionStrategy(
            begin.clip(low, high), self.spread * (high - low), told
        )
        worst = first if np.isfinite(first) else 0.0
        while True:
            asked = evolution.ask()
            scores: list[float] = []
            for values in asked:
                yield np.asarray(values)[: len(start)], scores.append
            finite = [score for score in scores if np.isfinite(score)]
            worst = max([worst, *finite])
            evolution.tell(asked, [s if np.isfinite(s) else worst + 1 for s in scores])


def _extra(package: str, way: str) -> Any:
    try:
        return __import__(package)
    except ImportError as error:
        raise ValueError(
            f"the search {way!r} needs the extra 'search': pip install 'plait[search]'"
        ) from error
