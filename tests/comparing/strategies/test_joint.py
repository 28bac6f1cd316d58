"""Joint training with every way to change the step and to balance, on inputs with a text."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse
import torch

from plait import compare
from plait.comparing.building import balancer_for
from plait.comparing.model import asked_of, load_model
from plait.comparing.plain.fitting import Samples
from plait.comparing.strategies.joint import Joint
from plait.method import methods
from plait.testing.strategies import toy_plan, toy_table
from plait.training.observers import read_events

PROCEDURES = [entry.name for entry in methods("procedure")]
BALANCERS = [entry.name for entry in methods("balancing")]


def trained(folder, **how):
    plan = toy_plan()
    model = Joint(**how).run(plan, {}, 0, folder)
    batch = plan.dataset.batch(plan.dataset.rows("test"))
    return model, batch, model.predict(batch.parts, asked_of(batch))


@pytest.mark.parametrize("name", PROCEDURES)
def test_every_procedure_trains_a_model_that_is_stored(name, tmp_path):
    model, batch, found = trained(tmp_path / "run", procedure=name)
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model").predict(batch.parts, asked_of(batch))
    assert all(torch.equal(found[group], again[group]) for group in found)
    assert all(value.isfinite().all() for value in found.values())
    assert model.cost().parameters > 0
    assert math.isfinite(Joint(procedure=name).seconds(toy_plan()))


@pytest.mark.parametrize("name", BALANCERS)
def test_every_balancer_trains_a_model(name, tmp_path):
    _, _, found = trained(tmp_path, balancing=name)
    assert all(value.isfinite().all() for value in found.values())


def test_weights_from_the_table_are_those_of_its_columns_and_labels():
    """Whatever wraps the balancer, and before any training."""
    plan = toy_plan()
    found = balancer_for(plan, {"ema": {"balancer": "covariance_alignment"}}).balancer.weights
    assert set(found) == set(plan.dataset.tasks.names)
    assert sum(found.values()) == pytest.approx(len(found))
    rows = {}
    for sample in Samples(plan, codes=False, pooled=False):
        table = sample.table.toarray() if scipy.sparse.issparse(sample.table) else sample.table
        y = sample.target
        if sample.kind.kind == "classes":
            y = np.stack([y == c for c in range(len(sample.kind.classes))]).astype(float)
        y = np.atleast_2d(y)
        y = (y - y.mean(1, keepdims=True)) / y.std(1, keepdims=True)
        rows[sample.pool.name] = y @ table / y.shape[1]
    left, _, _ = np.linalg.svd(np.concatenate(list(rows.values())).T, full_matrices=False)
    sizes = {name: np.linalg.norm(theta @ left[:, :1]) for name, theta in rows.items()}
    mean = np.mean(list(sizes.values()))
    assert found == {name: pytest.approx(size / mean, rel=1e-5) for name, size in sizes.items()}
    assert max(found.values()) > 1.2


def test_the_front_of_an_ensemble_is_in_the_events(tmp_path):
    trained(tmp_path, procedure={"pamal": {"points": 7}})
    (front,) = [e for e in read_events(tmp_path / "events.jsonl") if e["event"] == "front"]
    assert len(front["points"]) == len(front["losses"]) == len(front["efficient"]) == 7


MINE = """
from plait.balancing.base import Wrapper
from plait.method import Card, Need


class Halved(Wrapper):
    card = Card(
        family="balancing", name="halved", summary="Half the weights of another balancer.",
        needs=frozenset({Need.BACKWARD}),
    )

    def __init__(self, *, balancer="equal"):
        super().__init__(balancer)

    def forward(self, s):
        return self.balancer(s) / 2
"""


def test_a_balancer_of_somebody_else_runs_in_a_study(tmp_path, monkeypatch):
    (tmp_path / "mine_somewhere.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    mine = {"mine_somewhere:Halved": {"balancer": "imtl_g"}}
    study = compare(
        toy_table(),
        tasks={"ripe": {"kind": "binary"}, "price": {"kind": "real"}},
        strategies={"halved": {"joint": {"balancing": mine}}},
        training={"passes": 2, "batch": 32},
        seeds=1,
        id="id",
        out=tmp_path / "run",
    )
    assert not study.failures()
    assert "halved" in [row.strategy for row in study.results.standings]
    assert "mine_somewhere:Halved" in study.results.recipe
