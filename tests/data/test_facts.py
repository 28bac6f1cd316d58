from __future__ import annotations

import numpy as np
import polars as pl

from plait.data import DataSpec, TableSpec, TaskSpec, load

N = 200
SPLIT = (["train"] * 8 + ["valid", "test"]) * (N // 10)


def told(source, tasks, **spec):
    dataset = load(DataSpec(tables={"t": TableSpec(source=source, **spec)}), tasks)
    return "\n".join(dataset.facts), "\n".join(dataset.warnings)


def base():
    return {
        "x": np.random.default_rng(0).normal(size=N),
        "split": SPLIT,
        "a": np.where(np.arange(N) % 4 == 0, np.nan, np.arange(N) // 10 % 2),
        "b": np.arange(N) % 3 / 7,
    }


def test_counts_kinds_and_missing_labels_are_said():
    facts, warnings = told(base(), {"a": TaskSpec(), "b": TaskSpec()})
    assert "200 rows" in facts
    assert "160 train, 20 valid, 20 test" in facts
    assert "2 tasks, 350 labels; 12.5% of the labels are missing." in facts
    assert "binary: a; real: b" in facts
    assert "a: 120 train, 10 valid, 20 test labels." in facts
    assert warnings.startswith("All valid labels are of one class for a: ")


def test_what_was_left_out_is_said():
    facts, _ = told({**base(), "row_id": [f"r{i}" for i in range(N)]}, {"a": TaskSpec()})
    assert "Left out: row_id (an id: every row has its own)" in facts


def test_rows_of_train_that_come_again_in_test_are_counted():
    source = base()
    source["x"][9] = source["x"][0]  # a test row
    source["x"][19] = source["x"][1]
    _, warnings = told(source, {"b": TaskSpec()}, ignore=["a"])
    assert "2 test rows (10.0%) have exactly the inputs of a training row" in warnings
    source = {name: np.concatenate([np.asarray(values)] * 20) for name, values in base().items()}
    source["x"] = np.random.default_rng(1).normal(size=20 * N)
    source["x"][9] = source["x"][0]
    facts, warnings = told(source, {"b": TaskSpec()}, ignore=["a"])
    assert "1 test row (0.2%)" in facts
    assert "1 test row" not in warnings


def test_equal_inputs_of_different_tasks_are_no_leak():
    table = pl.DataFrame(
        {
            "x": np.repeat(np.arange(N // 2), 2).astype(float),
            "task": ["p", "q"] * (N // 2),
            "split": ["train", "test"] * (N // 4) + ["test", "train"] * (N // 4),
            "y": np.arange(N) % 5 / 3,
        }
    )
    _, warnings = told(table, {"y": TaskSpec(by="task")})
    assert "exactly the inputs" not in warnings


def test_small_constant_and_unmeasurable_tasks_are_warned_of():
    source = base()
    few = np.full(N, np.nan)
    few[:12] = np.arange(12) % 2
    constant = np.ones(N)
    few[[18, 19]] = 0, 1
    source |= {"few": few, "constant": constant}
    tasks = {name: TaskSpec() for name in ("a", "few", "constant")}
    tasks["constant"] = TaskSpec(kind="real")
    _, warnings = told(source, tasks)
    assert "Fewer than 20 training labels for few." in warnings
    assert "All training labels are the same for constant." in warnings


def test_a_split_without_test_rows_is_warned_of():
    source = {**base(), "split": ["train"] * 150 + ["valid"] * 50}
    _, warnings = told(source, {"b": TaskSpec()})
    assert warnings.startswith("There are no test rows.")
