from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import plait
from plait.comparing.evaluate import mean_loss, predict_split, read_predictions, write_predictions
from plait.comparing.model import BundleModel, NetworkModel
from plait.comparing.predictor import Predictor
from plait.data import DataSpec, TableSpec, TaskSpec, load
from plait.method import resolve
from plait.metrics import METRICS
from plait.networks import build_network
from plait.networks.heads import priors_of
from plait.training import Training, train

ENCODER = {"sequence": {"attention": {"width": 16, "depth": 1}}, "trunk": {"mlp": {"width": 16}}}


def sentences(rows=60, seed=0, tagged=True):
    """A tag for each word, and one for the whole."""
    random = np.random.default_rng(seed)
    words = [[f"w{n}" for n in random.integers(0, 4, random.integers(1, 6))] for _ in range(rows)]
    tags = [["B-X" if word == "w0" else "O" for word in own] for own in words]
    short = [float(len(own) < 3) for own in words]
    split = ["train"] * (rows // 2) + ["valid"] * (rows // 4) + ["test"] * (rows // 4)
    frame = pl.DataFrame({"words": words, "tags": tags, "short": short, "split": split})
    return frame if tagged else frame.drop("tags", "short", "split")


@pytest.fixture(scope="module")
def data():
    spec = TableSpec(source=sentences(), types={"words": "sequence"})
    return load(DataSpec(tables={"t": spec}), {"tags": TaskSpec(), "short": TaskSpec()})


def network_of(data, tasks):
    return build_network(
        inputs=data.inputs, tasks=tasks, encoder=ENCODER, sharing=resolve("sharing", "hard"),
        seed=0, priors={n: p for n, p in priors_of(data).items() if n in tasks.position},
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(data):
    network = network_of(data, data.tasks)
    train(network, data, Training(passes=25, batch=10, learning_rate=0.02), seed=0)
    return NetworkModel(network)


def test_tokens_are_learnt(data, model):
    found = predict_split(model, data, "test")
    rows = np.zeros(len(found["tags"].rows))
    assert METRICS["token_accuracy"].score(rows, found["tags"].prediction) > 0.95
    assert mean_loss(data.tasks, found) < 0.5


def test_tallies_are_stored_and_read_back(data, model, tmp_path):
    found = predict_split(model, data, "test")
    write_predictions(tmp_path / "p.parquet", data, {"test": found})
    back = read_predictions(tmp_path / "p.parquet", data.tasks, "test")
    np.testing.assert_array_equal(back["tags"].prediction, found["tags"].prediction)


def test_predictions_come_back_word_by_word_from_a_folder(data, model, tmp_path):
    about = {"words": "joint"}
    Predictor(model, data.preparation, about).save(tmp_path / "model")
    loaded = plait.load(tmp_path / "model")
    frame = sentences(8, seed=5, tagged=False)
    found = loaded.predict(frame)
    assert found["tags"].list.len().to_list() == frame["words"].list.len().to_list()
    assert set(found["tags"].explode().to_list()) <= {"O", "B-X"}
    one = pl.concat([loaded.predict(frame[i : i + 1]) for i in range(8)])
    assert one["tags"].to_list() == found["tags"].to_list()


def test_models_of_one_task_each_give_the_same_shape(data):
    members = [NetworkModel(network_of(data, data.tasks.subset([n]))) for n in data.tasks.names]
    found = predict_split(BundleModel(data.tasks, members), data, "test")
    assert found["tags"].prediction.shape == (15, 2 + 3 * 2 + 3)
