"""Joint training with every way to change the step and to balance, on inputs with a text."""

from __future__ import annotations

import math

import pytest
import torch

from plait.comparing.model import asked_of, load_model
from plait.comparing.strategies.joint import Joint
from plait.method import methods
from plait.testing.strategies import toy_plan
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


def test_the_front_of_an_ensemble_is_in_the_events(tmp_path):
    trained(tmp_path, procedure={"pamal": {"points": 7}})
    (front,) = [e for e in read_events(tmp_path / "events.jsonl") if e["event"] == "front"]
    assert len(front["points"]) == len(front["losses"]) == len(front["efficient"]) == 7
