"""What the plain baselines fit: a table of numbers and targets for every task, or pool of tasks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.comparing.judging import loss_of_predictions
from plait.comparing.plain.estimators import Estimators, threads_for
from plait.comparing.plain.model import EstimatorModel, Pool
from plait.comparing.plain.view import Array, Table, View
from plait.task import Task, TaskSet

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

    from plait.comparing.plan import Plan
    from plait.data import Dataset
    from plait.data.dataset import Split

CODED = 1000  # trees see the most frequent tokens only


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The rows of one pool: table [n, F], targets [n] (real: standardised), weights [n].

    ``task`` [n] is the number of the row's task in the pool.
    """

    pool: Pool
    kind: Task
    table: Table
    target: Array
    task: Array
    weight: Array | None


class Samples:
    """The samples of a plan's data set, one for each task, or for each pool of alike tasks."""

    def __init__(self, plan: Plan, *, codes: bool, pooled: bool) -> None:
        self.dataset = plan.dataset
        rows = self.dataset.rows("train")
        parts = self.dataset.batch(rows).parts
        most = CODED if codes else 20_000
        self.view = View.of(self.dataset.inputs, parts, codes=codes, most=most)
        self.pools = pools(self.dataset) if pooled else alone(self.dataset.tasks)
        self._tables: dict[str, tuple[Array, Table]] = {}

    @property
    def tasks(self) -> TaskSet:
        return self.dataset.tasks

    def __iter__(self) -> Iterator[Sample]:
        """The training samples, pool by pool."""
        for pool in self.pools:
            sample = self.sample(pool, "train")
            if sample is not None:
                yield sample

    def sample(self, pool: Pool, split: Split) -> Sample | None:
        """The rows of a pool in a split; None where it has none."""
        position, table = self._table(split)
        rows, targets, numbers, weights = [], [], [], []
        for number, name in enumerate(pool.tasks):
            where, truth, weight = self.dataset.truth(name, split)
            center, scale = pool.units[number]
            real = self.tasks[name].kind == "real"
            rows.append(position[where])
            targets.append((truth - center) / scale if real else truth)
            numbers.append(np.full(len(where), number))
            weights.append(np.ones(len(where)) if weight is None else weight)
        chosen, task = np.concatenate(rows), np.concatenate(numbers)
        if not len(chosen):
            return None
        weight = np.concatenate(weights)
        return Sample(
            pool=pool,
            kind=self.tasks[pool.tasks[0]],
            table=pool.widened(table[chosen], task, codes=self.view.codes),
            target=np.concatenate(targets),
            task=task,
            weight=None if (weight == 1).all() else weight,
        )

    def model(
        self, fitted: Estimators, evidence: Mapping[str, Any] | None = None
    ) -> EstimatorModel:
        """The model of the fitted estimators."""
        return EstimatorModel(self.tasks, self.pools, self.view, fitted, evidence)

    def choose(
        self, values: tuple[float, ...], fit: Callable[[float], Estimators]
    ) -> tuple[Estimators, dict[str, Any]]:
        """The fit whose mean validation loss over tasks is lowest, and how it was chosen.

        Without validation rows it is the one in the middle.
        """
        held = [s for pool in self.pools if (s := self.sample(pool, "valid")) is not None]
        if not held:
            middle = values[len(values) // 2]
            return fit(middle), {"strength": middle, "chosen": "the default, without validation"}
        best: tuple[float, float, Estimators] | None = None
        for value in values:
            fitted = fit(value)
            losses = [self._loss(fitted, sample) for sample in held]
            mean = float(np.average(losses, weights=[len(s.pool.tasks) for s in held]))
            if best is None or mean < best[0]:
                best = (mean, value, fitted)
        assert best is not None
        return best[2], {"strength": best[1], "chosen": "on validation"}

    def _loss(self, fitted: Estimators, sample: Sample) -> float:
        found = fitted.predict(sample.pool.name, sample.kind, sample.table)
        return loss_of_predictions(sample.kind.kind, sample.target, found)

    def _table(self, split: Split) -> tuple[Array, Table]:
        if split not in self._tables:
            batch = self.dataset.batch(self.dataset.rows(split))
            position = np.full(len(self.dataset), -1)
            position[batch.ids.numpy()] = np.arange(len(batch))
            self._tables[split] = (position, self.view.table(batch.parts) if len(batch) else [])
        return self._tables[split]


def alone(tasks: TaskSet) -> list[Pool]:
    """Every task in a pool of its own."""
    return [
        Pool(name=task.name, tasks=(task.name,), units=((task.center, task.scale),))
        for task in tasks
    ]


def pools(dataset: Dataset) -> list[Pool]:
    """Tasks of one kind (and one list of classes) on the same inputs, together."""
    together: dict[tuple[object, ...], list[Task]] = {}
    for task in dataset.tasks:
        rows = dataset.rows("train", task.name)
        part = next(iter(dataset.batch(rows[:1]).parts.values()), {})
        classes = () if task.kind == "binary" else task.classes
        together.setdefault((task.group, classes, tuple(sorted(part))), []).append(task)
    by = {name for names in _by_values(dataset) for name in names}
    found = []
    for number, tasks in enumerate(together.values()):
        names = tuple(task.name for task in tasks)
        units = [(task.center, task.scale) for task in tasks]
        if tasks[0].kind == "real" and by.issuperset(names):
            # One quantity in one unit: what differs between the tasks is for the model to find.
            truth = np.concatenate([dataset.truth(name, "train")[1] for name in names])
            units = [(float(truth.mean()), float(truth.std()) or 1.0)] * len(names)
        name = names[0] if len(names) == 1 else f"pool {number}"
        found.append(Pool(name=name, tasks=names, units=tuple(units)))
    return found


def poolable(dataset: Dataset) -> bool:
    """Whether any tasks are alike enough for one estimator with the task's number."""
    return len(dataset.tasks) > 1 and any(len(pool.tasks) > 1 for pool in pools(dataset))


def _by_values(dataset: Dataset) -> Iterator[tuple[str, ...]]:
    """The tasks that are values of one column: ``exam[1]``, ``exam[2]``."""
    for route in dataset.preparation.routes.values():
        if route.by is not None:
            yield tuple(route.tasks.values())


def random_state(*parts: object) -> int:
    """A seed for scikit-learn and LightGBM, which take 31 bits."""
    from plait.data.seeding import key

    return key(*parts) % 2**31


@cache
def _libraries() -> ThreadpoolController:
    """BLAS and OpenMP, looked for once: that takes longer than a small fit."""
    import sklearn.linear_model  # noqa: F401 - what it loads is to be found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextmanager
def threaded(table: Table) -> Iterator[None]:
    """Solvers use as many threads as a table is worth."""
    with _libraries().limit(limits=threads_for(table)):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Estimators warn about convergence and constant columns; the leaderboard shows what counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
