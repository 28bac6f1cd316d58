"""The whole recipe on a small table of mixed kinds with missing labels."""

from __future__ import annotations

import json

import pytest
import torch
from training_toys import furthest, slices

from plait.balancing.pcgrad import PCGrad
from plait.balancing.uncertainty import Uncertainty
from plait.data import DataSpec, TableSpec, TaskSpec, load
from plait.data.mixing import SideBySide
from plait.networks import Network, build_network, priors_of
from plait.networks.side_by_side import build_side_by_side
from plait.sharing.hard import Hard
from plait.testing.toys import toy_frame
from plait.training import Training, evaluate, train
from plait.training.train import device_of, lower_precision

ENCODER = {"trunk": {"mlp": {"width": 16, "depth": 1}}}
TARGETS = {
    "ripe": "binary", "grade": "classes", "price": "real", "sold": "counts", "stars": "ordinal",
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset():
    frame = toy_frame(600)
    table = TableSpec(source=frame, ignore=["note"])
    specs = {name: TaskSpec(target=name, kind=kind) for name, kind in TARGETS.items()}
    return load(DataSpec(tables={"table": table}, id="id"), specs)


def fresh(dataset, names=None) -> Network:
    tasks = dataset.tasks if names is None else dataset.tasks.subset(names)
    priors = {k: v for k, v in priors_of(dataset).items() if k in tasks.position}
    return build_network(
        inputs=dataset.inputs, tasks=tasks, encoder=ENCODER, sharing=Hard(), seed=0, priors=priors
    )


def test_it_learns_every_task(dataset):
    network = fresh(dataset)
    before = evaluate(network, dataset, "test", dataset.tasks.names)
    run = train(network, dataset, Training(passes=12, learning_rate=5e-3), seed=0)
    after = evaluate(network, dataset, "test", dataset.tasks.names)
    assert set(after) == set(TARGETS)
    for name in ("ripe", "grade", "price", "stars"):
        assert after[name] < 0.9 * before[name], name
    assert run.best_step
    assert run.losses.keys() == TARGETS.keys()


def test_validation_loss_is_the_mean_over_a_tasks_own_labels(dataset):
    network = fresh(dataset)
    found = evaluate(network, dataset, "valid", ["price", "ripe"])
    assert set(found) == {"price", "ripe"}
    labels = dataset.labels("price", "valid")
    batch = dataset.batch(labels.rows, ["price"])
    with torch.no_grad():
        raw = network.eval()(batch.parts, batch.labels).raw["real"][:, 0]
    wanted = (raw - batch.labels["real"].target).square().mean()
    assert found["price"] == pytest.approx(float(wanted), rel=1e-5)


def test_the_same_seed_gives_the_same_network_and_another_does_not(dataset):
    found = []
    for seed in (1, 1, 2):
        network = fresh(dataset)
        train(network, dataset, Training(passes=2), balancer=PCGrad(), seed=seed)
        found.append(slices(network))
    assert furthest(found[0], found[1]) == 0
    assert furthest(found[0], found[2]) > 0


def test_a_balancer_of_the_user_is_not_changed(dataset):
    balancer = Uncertainty(rate=0.1)
    train(fresh(dataset), dataset, Training(passes=1), balancer=balancer)
    assert balancer.tasks == ()


def test_a_network_for_some_of_the_tasks_trains_on_theirs_only(dataset):
    network = fresh(dataset, ["price", "ripe"])
    run = train(network, dataset, Training(passes=2))
    assert set(run.losses) == {"price", "ripe"}
    whole = fresh(dataset)
    before = slices(whole)
    train(whole, dataset, Training(passes=2), tasks=["price"])
    after = slices(whole)
    for name in after:
        mine = "/" not in name or name.endswith("/price")
        assert torch.equal(before[name], after[name]) != mine, name


def test_the_folder_has_events_and_a_finished_checkpoint(dataset, tmp_path):
    settings = Training(passes=3, patience=None)
    network = fresh(dataset)
    run = train(network, dataset, settings, balancer=PCGrad(), folder=tmp_path)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert {e["event"] for e in events} == {"step", "valid", "conflict", "gradients", "cosines"}
    assert [e["pass"] for e in events if e["event"] == "valid"] == [1.0, 2.0, 3.0]
    again = fresh(dataset)
    told = train(again, dataset, settings, balancer=PCGrad(), folder=tmp_path)
    assert (told.step, told.best_step) == (run.step, run.best_step)
    assert furthest(slices(network), slices(again)) == 0


def test_the_meter_looks_as_often_as_asked_at_every_task_and_changes_nothing(dataset, tmp_path):
    found = {}
    for meter in (None, 2):
        network = fresh(dataset)
        folder = tmp_path / str(meter)
        train(network, dataset, Training(passes=1, meter=meter), folder=folder)
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        seen = [e for e in events if e["event"] == "conflict"]
        found[meter] = slices(network), [e["step"] for e in seen]
        names = {name for e in events if e["event"] == "gradients" for name in e["norms"]}
        assert meter is None or names == set(network.tasks.names)
    assert found[2][1][:3] == [2, 4, 6]
    assert len(found[None][1]) < len(found[2][1])
    assert furthest(found[None][0], found[2][0]) == 0


def test_last_weights_are_kept_when_asked_for(dataset):
    settings = Training(passes=40, learning_rate=0.05, patience=1)
    run = train(fresh(dataset), dataset, settings)
    assert run.stopped == "patience"
    last = train(fresh(dataset), dataset, Training(passes=3, patience=1), keep_best=False)
    assert (last.stopped, last.best_step) == ("steps", None)


def test_networks_side_by_side_are_trained_each_for_itself(dataset):
    tasks = dataset.tasks
    network = build_side_by_side(inputs=dataset.inputs, tasks=tasks, encoder=ENCODER, seed=0)
    feed = SideBySide(dataset, steps=8, seed=0)
    before = evaluate(network, dataset, "test", tasks.names)
    run = train(network, dataset, Training(passes=12, learning_rate=5e-3), feed=feed, per_task=True)
    after = evaluate(network, dataset, "test", tasks.names)
    assert after["price"] < 0.8 * before["price"]
    assert set(run.losses) == set(tasks.names)


def test_device_and_precision_are_found():
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("auto").type in ("cuda", "mps", "cpu")
    assert lower_precision("bfloat16", torch.device("cpu"))
    assert not lower_precision("float32", torch.device("cpu"))
    assert not lower_precision("auto", torch.device("cpu"))
