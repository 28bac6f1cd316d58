"""Predictions with a planted truth: how well each strategy knows each task is chosen."""

from __future__ import annotations

import numpy as np

from plait.comparing.statistics import CellPredictions, TaskPredictions
from plait.task import Task, TaskSet


def binary(*names: str) -> TaskSet:
    return TaskSet(Task(name=name, kind="binary") for name in names)


def real(*names: str) -> TaskSet:
    return TaskSet(Task(name=name, kind="real") for name in names)


def cells(
    tasks: TaskSet,
    noise: dict[str, dict[str, float] | float],
    *,
    rows: int = 400,
    seeds: int = 2,
    seed: int = 0,
    steady: tuple[str, ...] = (),
    own: float | dict[str, float] = 0.2,
) -> list[CellPredictions]:
    """One cell for each strategy and seed: the truth plus noise of the given size.

    ``noise`` is by strategy, or by strategy and task. ``own`` is the noise that each, or a
    named strategy, draws anew with each seed; strategies in ``steady`` have one cell for all seeds.
    """
    random = np.random.default_rng(seed)
    signal = {task.name: random.normal(size=rows) for task in tasks}
    common = {task.name: random.normal(size=rows) for task in tasks}
    made = []
    for strategy, sizes in noise.items():
        for number in range(1 if strategy in steady else seeds):
            found = {}
            for task in tasks:
                size = sizes[task.name] if isinstance(sizes, dict) else sizes
                guess = signal[task.name] + size * common[task.name]
                mine = own[strategy] if isinstance(own, dict) else own
                guess = guess + mine * random.normal(size=rows)
                truth = signal[task.name]
                if task.kind == "binary":
                    truth, guess = (truth > 0.5).astype(int), 1 / (1 + np.exp(-guess))
                every = np.arange(rows)
                found[task.name] = TaskPredictions(every, every, truth, guess)
            made.append(CellPredictions(strategy, None if strategy in steady else number, found))
    return made
