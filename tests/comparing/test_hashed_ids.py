"""Hashed ids in models: learnt by networks and baselines, served when new, not exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from plait.comparing.evaluate import predict_split
from plait.comparing.plan import Plan
from plait.comparing.predictor import Predictor
from plait.data import Dataset, DataSpec, TableSpec, TaskSpec, load
from plait.exporting import ExportError, export_torch
from plait.method import resolve
from plait.metrics import METRICS
from plait.training import Training

LARGE = 2**61  # ids that are all one number as floats
USERS = 40


@pytest.fixture(scope="module")
def data() -> Dataset:
    random = np.random.default_rng(0)
    users = random.integers(0, USERS, 500)
    likes = (users % 2).astype(int)
    table = pl.DataFrame(
        {"user": users + LARGE, "x": random.normal(size=500), "y": likes, "z": 1 - likes}
    )
    spec = TableSpec(source=table, types={"user": "hashed"}, buckets={"user": 5000})
    return load(DataSpec(tables={"t": spec}), {"y": TaskSpec(), "z": TaskSpec()})


def plan(data: Dataset) -> Plan:
    encoder = {"hashed": {"embedding": {"width": 4}}, "trunk": {"mlp": {"width": 16, "depth": 1}}}
    settings = Training(passes=15, batch=64, learning_rate=0.02)
    return Plan.of(data, encoder=encoder, training=settings)


@pytest.mark.parametrize("name", ["joint", "separate", "linear"])
def test_models_learn_who_likes_what(data: Dataset, tmp_path: Path, name: str) -> None:
    model = resolve("strategy", name).run(plan(data), {}, 0, tmp_path)
    for task, own in predict_split(model, data, "test").items():
        assert METRICS["auroc"].score(own.truth, own.prediction) > 0.95, task
    predictor = Predictor(model, data.preparation, {})
    fresh = pl.DataFrame({"user": [LARGE + 3, LARGE + 4, 7, None], "x": [0.0] * 4})
    found = predictor.predict(fresh)
    assert found["y"][0] > 0.5 > found["y"][1]
    assert found["y"].is_between(0, 1).all()
    if name == "joint":
        with pytest.raises(ExportError, match="inputs of type 'hashed' cannot be exported"):
            export_torch(predictor, tmp_path / "model.pt2")


def test_trees_read_buckets_as_one_column(data: Dataset, tmp_path: Path) -> None:
    model = resolve("strategy", "forest").run(plan(data), {}, 0, tmp_path)
    assert predict_split(model, data, "test").keys() == {"y", "z"}
