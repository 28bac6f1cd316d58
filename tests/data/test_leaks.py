from __future__ import annotations

import numpy as np
import polars as pl

from plait.data import DataSpec, TableSpec, TaskSpec
from plait.data.survey import survey

N = 600
SPLIT = (["train"] * 4 + ["valid", "test"]) * (N // 6)


def warned(tasks=None, **columns):
    random = np.random.default_rng(0)
    table = pl.DataFrame({"x": random.normal(size=N), "split": SPLIT, **columns})
    found = survey(DataSpec(tables={"t": TableSpec(source=table)}), tasks or {"y": TaskSpec()})
    return [warning for warning in found.warnings if "alone tells" in warning]


RANDOM = np.random.default_rng(1)
BINARY = RANDOM.integers(0, 2, N)
REAL = RANDOM.normal(size=N)


def test_a_copy_of_the_target_under_another_name_is_noticed():
    (said,) = warned(y=BINARY, answer=np.where(BINARY == 1, "won", "lost"))
    assert "the input 'answer' alone tells y almost perfectly" in said
    assert "leave it out: ignore" in said


def test_a_target_in_other_units_is_noticed():
    (said,) = warned({"y": TaskSpec(kind="real")}, y=REAL, pounds=REAL**3 * 2.2 + 1)
    assert "'pounds' alone tells y" in said


def test_a_number_that_separates_the_classes_is_noticed():
    (said,) = warned(y=BINARY, score=BINARY * 10 + RANDOM.random(N))
    assert "'score' alone tells y" in said


def test_the_tasks_name_under_another_name_is_noticed():
    school = np.arange(N) % 7
    columns = {"school": school, "town": [f"town {number}" for number in school]}
    (said,) = warned({"y": TaskSpec(by="school", kind="real")}, y=REAL, **columns)
    assert "'town' alone tells the task (by school)" in said


def test_good_inputs_and_rare_classes_are_no_leak():
    rare = (np.arange(N) % 97 == 0).astype(int)
    noisy = np.where(RANDOM.random(N) < 0.9, BINARY, 1 - BINARY)
    assert not warned(y=BINARY, hint=noisy)
    assert not warned({"y": TaskSpec(kind="real")}, y=REAL, near=REAL + RANDOM.normal(size=N) / 5)
    assert not warned(y=rare, constantly=np.arange(N) % 2)
