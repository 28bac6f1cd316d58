"""Small tables and plans for the tests of comparing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plait.comparing.plan import Plan
from plait.data import Dataset, DataSpec, TableSpec, TaskSpec, load
from plait.settings import Training

ENCODER = {"trunk": {"mlp": {"width": 12, "depth": 1}}}
TARGETS = ("click", "price", "grade")


def table(rows: int = 160, seed: int = 0) -> pl.DataFrame:
    """Five inputs and three targets of different kinds, each with missing labels."""
    numbers = np.random.default_rng(seed)
    x = numbers.normal(size=(rows, 4))
    z = x @ np.random.default_rng(99).normal(size=(4, 3))
    columns: dict[str, Any] = {f"x{i}": x[:, i] for i in range(4)}
    columns["colour"] = numbers.choice(["red", "green", "blue"], rows).tolist()
    click = (z[:, 0] + 0.5 * numbers.normal(size=rows) > 0).astype(int)
    price = 10 * (z[:, 0] + z[:, 1]) + 50 + numbers.normal(size=rows)
    grade = np.digitize(z[:, 2] + 0.3 * numbers.normal(size=rows), [-1, 1])
    columns["click"] = [int(c) if numbers.random() < 0.8 else None for c in click]
    columns["price"] = [float(p) if numbers.random() < 0.7 else None for p in price]
    columns["grade"] = [["low", "mid", "top"][g] if numbers.random() < 0.7 else None for g in grade]
    return pl.DataFrame(columns)


def dataset(rows: int = 160) -> Dataset:
    tasks = {name: TaskSpec(target=name) for name in TARGETS}
    return load(DataSpec(tables={"table": TableSpec(source=table(rows))}), tasks)


def schools(schools: int = 6, seed: int = 0) -> pl.DataFrame:
    """One real target, one task for each school, of different sizes."""
    numbers = np.random.default_rng(seed)
    sizes = [20 + 12 * (i % 3) for i in range(schools)]
    school = np.repeat([f"s{i}" for i in range(schools)], sizes)
    x = numbers.normal(size=(len(school), 3))
    slope = numbers.normal(size=3)
    shift = np.repeat(numbers.normal(size=schools), sizes)
    score = 20 + 5 * (x @ slope) + 3 * shift + numbers.normal(size=len(school))
    split = numbers.choice(["train", "train", "train", "valid", "test"], len(school))
    return pl.DataFrame(
        {"school": school, "a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "score": score, "split": split}
    )


def school_dataset(count: int = 6) -> Dataset:
    tasks = {"exam": TaskSpec(by="school", target="score", kind="real")}
    return load(DataSpec(tables={"table": TableSpec(source=schools(count))}), tasks)


def plan(data: Dataset | None = None, folder: Path | None = None, **training: Any) -> Plan:
    settings = Training(**{"passes": 2, "learning_rate": 0.01, **training})
    data = data or dataset()
    return Plan.of(data, encoder=ENCODER, training=settings, folder=folder)
