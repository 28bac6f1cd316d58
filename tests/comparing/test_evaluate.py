from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from studies import dataset, plan, school_dataset

from plait.comparing.evaluate import (
    latency,
    mean_loss,
    measured,
    predict_split,
    read_predictions,
    write_predictions,
)
from plait.comparing.judging import loss_of_predictions
from plait.comparing.model import Model
from plait.data import Dataset, DataSpec, TableSpec, TaskSpec, load
from plait.method import resolve


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset()


@pytest.fixture(scope="module")
def model(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Model:
    joint = resolve("strategy", "joint")
    return joint.run(plan(data), {}, 0, tmp_path_factory.mktemp("joint"))


def test_every_labelled_row_is_predicted_once_with_its_truth(data: Dataset, model: Model) -> None:
    found = predict_split(model, data, "test")
    for name, one in found.items():
        rows, truth, _ = data.truth(name, "test")
        np.testing.assert_array_equal(one.rows, rows)
        np.testing.assert_array_equal(one.truth, truth)
        assert len(one.prediction) == len(rows)
    assert found["grade"].prediction.shape[1] == 3
    assert found["price"].prediction.mean() > 10  # in the user's units


def test_predictions_are_kept_in_parquet(data: Dataset, model: Model, tmp_path: Path) -> None:
    found = {split: predict_split(model, data, split) for split in ("valid", "test")}
    write_predictions(tmp_path / "p.parquet", data, found)
    for split in ("valid", "test"):
        back = read_predictions(tmp_path / "p.parquet", data.tasks, split)
        assert back.keys() == found[split].keys()
        for name, one in found[split].items():
            for part in ("rows", "units", "truth", "prediction"):
                np.testing.assert_array_equal(getattr(back[name], part), getattr(one, part))
            assert back[name].weight is None
            assert back[name].group is None


def test_groups_are_kept_with_the_predictions(tmp_path: Path) -> None:
    users = [f"u{n % 7}" if n % 5 else None for n in range(120)]
    table = pl.DataFrame({"x": np.linspace(0, 1, 120), "user": users, "y": [0, 1, 1, 0] * 30})
    spec = {"y": TaskSpec(kind="binary", metrics=("auroc", "gauc"), group="user")}
    data = load(DataSpec(tables={"t": TableSpec(source=table)}), spec)
    prior = resolve("strategy", "prior").run(plan(data), {}, 0, tmp_path)
    found = predict_split(prior, data, "test")
    write_predictions(tmp_path / "p.parquet", data, {"test": found})
    back = read_predictions(tmp_path / "p.parquet", data.tasks, "test")["y"]
    names = sorted({user for user in users if user})
    own = [users[row] for row in back.rows]
    assert back.group.tolist() == [names.index(user) if user else -1 for user in own]


def test_the_mean_loss_is_lower_for_better_predictions(data: Dataset, model: Model) -> None:
    found = predict_split(model, data, "valid")
    good = mean_loss(data.tasks, found)
    prior = resolve("strategy", "prior").run(plan(data), {}, 0, Path())
    assert good < mean_loss(data.tasks, predict_split(prior, data, "valid"))
    assert mean_loss(data.tasks, {}) == float("inf")


@pytest.mark.parametrize(
    ("kind", "truth", "prediction", "loss"),
    [
        ("binary", [1, 0], [0.5, 0.5], np.log(2)),
        ("classes", [0, 2], [[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]], np.log(2)),
        ("real", [1.0, 2.0], [2.0, 2.0], 0.5),
        ("counts", [0, 3], [1.0, 3.0], 0.5),
        ("counts", [np.e], [1.0], 1.0),
    ],
)
def test_losses_of_predictions(kind: str, truth: list, prediction: list, loss: float) -> None:
    found = loss_of_predictions(kind, np.array(truth), np.array(prediction))
    assert found == pytest.approx(loss)


def test_weights_weigh_rows() -> None:
    found = loss_of_predictions("real", np.zeros(2), np.array([1.0, 3.0]), np.array([3.0, 1.0]))
    assert found == pytest.approx(3.0)


def test_latency_asks_for_all_tasks_of_a_row(data: Dataset, model: Model) -> None:
    class Slow(type(model)):
        asked = 0

        def predict(self, parts, asked):
            Slow.asked = sum(len(records) for records in asked.values())
            return super().predict(parts, asked)

    slow = Slow(model.network)
    assert latency(slow, data, repeats=1) > 0
    assert Slow.asked == len(data.tasks) * len(data.rows("test"))


def test_tasks_named_by_a_column_are_asked_once_a_row() -> None:
    data = school_dataset()
    asked = 0

    class Counting:
        def predict(self, parts, wanted):
            nonlocal asked
            asked = sum(len(records) for records in wanted.values())
            return {}

    latency(Counting(), data, repeats=1)
    assert asked == len(data.rows("test"))


def test_time_and_memory_are_measured() -> None:
    with measured(every=0.005) as meter:
        block = np.ones(30_000_000)
        time.sleep(0.05)
        del block
    assert meter.seconds >= 0.05
    assert meter.memory is None or meter.memory > 240_000_000
