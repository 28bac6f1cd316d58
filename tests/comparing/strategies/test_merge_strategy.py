from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from plait.comparing.bench import NetworkBench
from plait.comparing.building import make_network
from plait.comparing.cells import make, ordered
from plait.comparing.model import asked_of, load_model
from plait.comparing.plan import Plan
from plait.data import DataSpec, TableSpec, TaskSpec, load
from plait.method import resolve
from plait.settings import Training

ENCODER = {"trunk": {"mlp": {"width": 8, "depth": 1}}}
TARGETS = ("click", "buy", "grade")


def table(rows: int = 160) -> pl.DataFrame:
    """Four inputs and three targets with classes, each with missing labels."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(rows, 4))
    z = x @ np.random.default_rng(9).normal(size=(4, 3))
    columns = {f"x{i}": x[:, i] for i in range(4)}
    columns["click"] = [int(v > 0) if draw.random() < 0.8 else None for v in z[:, 0]]
    columns["buy"] = [int(v > 0.2) if draw.random() < 0.7 else None for v in z[:, 1]]
    cuts = np.digitize(z[:, 2], [-1, 1])
    columns["grade"] = [["low", "mid", "top"][g] if draw.random() < 0.8 else None for g in cuts]
    return pl.DataFrame(columns)


def plan(folder: Path | None = None) -> Plan:
    tasks = {name: TaskSpec(target=name) for name in TARGETS}
    data = load(DataSpec(tables={"table": TableSpec(source=table())}), tasks)
    return Plan.of(data, encoder=ENCODER, training=Training(passes=2), folder=folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The models of the cells of some merges, by the merger's name, and the study's folder."""
    folder = tmp_path_factory.mktemp("run")
    it = plan(folder)
    methods = {
        "task_arithmetic": {"scale": 0.3},
        "regmean": {"rows": 40},
        "emr": {},
        "fisher": {"rows": 5},
        "adamerging": {"steps": 3, "batch": 8},
        "surgery": {"steps": 4, "batch": 8, "rank": 2},
        "wemoe": {"steps": 2, "batch": 8, "rate": 0.1},
        "twin": {"rows": 20, "epochs": 2, "keep": 0.5},
        "tinting": {"rounds": 2, "batch": 8},
    }
    cells = {
        name: make(it, resolve("strategy", {"merge": {name: settings}}), 0)
        for name, settings in methods.items()
    }
    done = {}
    for cell in ordered(cells.values()):
        parts = {name: done[part.key] for name, part in cell.parts.items()}
        done[cell.key] = cell.strategy.run(cell.plan, parts, 0, folder / cell.key)
    assert len(done) == len(cells) + 2, "the start and the experts are made once"
    return {name: done[cell.key] for name, cell in cells.items()}, it


def test_mergers_that_look_at_data_are_ways_of_a_study(made):
    models, _ = made
    told = models["adamerging"].evidence
    assert told["models"] == list(TARGETS)
    assert told["kept"].startswith(("what was tuned", "the start"))
    assert len(told["validation"]) == 2
    assert models["regmean"].evidence["solved"]
    assert all(norm > 0 for norm in models["fisher"].evidence["norms"].values())
    assert set(models["surgery"].evidence["distance"]) == set(TARGETS)
    for name in ("wemoe", "twin"):
        assert set(models[name].evidence["routes"]) == set(TARGETS)


def test_the_merged_network_is_saved_and_loaded_like_any_other(made, tmp_path):
    models, it = made
    batch = it.dataset.batch(it.dataset.rows("test"))
    seen = []
    for name, model in models.items():
        model.save(tmp_path / name)
        again = load_model(tmp_path / name).predict(batch.parts, asked_of(batch))
        for group, values in model.predict(batch.parts, asked_of(batch)).items():
            torch.testing.assert_close(again[group], values, rtol=0, atol=0)
        seen.append(torch.cat([value.flatten() for value in again.values()]))
    assert not any(torch.equal(seen[0], other) for other in seen[1:4])


def test_rows_that_choose_their_experts_are_served_so_in_any_company(made):
    models, it = made
    network = models["twin"].network
    rows = it.dataset.rows("test")[:6]
    batch = it.dataset.batch(rows)
    found = network(batch.parts, asked_of(batch)).features
    alone = network.trunk.start(batch.parts, asked_of(batch))[0]
    alike = {group: torch.isclose(found[group].records, alone[group].records) for group in found}
    assert not any(same.all() for same in alike.values())
    half = it.dataset.batch(rows[3:])
    for group, features in network(half.parts, asked_of(half)).features.items():
        gaps = torch.cdist(features.records, found[group].records).detach()
        assert float(gaps.min(1).values.max()) < 1e-5


def test_tasks_with_tensors_of_their_own_are_served_by_them(made):
    models, it = made
    batch = it.dataset.batch(it.dataset.rows("test"))
    whole = models["task_arithmetic"].network.trunk.state_dict()
    served = [member.network.trunk.state_dict() for member in models["emr"].members]
    name = next(n for n, v in whole.items() if v.ndim == 2)
    assert not torch.equal(served[0][name], served[1][name])
    found = models["emr"].predict(batch.parts, asked_of(batch))
    for member in models["emr"].members:
        (task,) = member.tasks.names
        rows = batch.only({task})
        own = member.predict(rows.parts, asked_of(rows))
        group = it.tasks[task].group
        position = it.tasks.groups[group].position[task]
        mine = found[group][batch.labels[group].task == position]
        torch.testing.assert_close(next(iter(own.values())), mine)


def test_statistics_are_kept_for_the_other_mergers_of_the_study(made):
    _, it = made
    assert len(list((it.folder / "statistics").glob("grams-*.safetensors"))) == len(TARGETS)
    assert len(list((it.folder / "statistics").glob("fisher-*.safetensors"))) == len(TARGETS)


def test_a_task_without_classes_is_named_before_anything_is_trained():
    data = load(
        DataSpec(tables={"table": TableSpec(source=table())}),
        {"click": TaskSpec(target="click"), "price": TaskSpec(target="x0", kind="real")},
    )
    merge = resolve("strategy", {"merge": "adamerging"})
    with pytest.raises(
        ValueError, match=r"merge: adamerging works on losses .*'price' has another"
    ):
        merge.check(Plan.of(data, encoder=ENCODER))


def test_the_bench_shows_training_or_validation_rows_and_never_test_rows():
    it = plan()
    network = make_network(it, 0)
    for split in ("train", "valid"):
        bench = NetworkBench(it, network, split)
        for task in TARGETS:
            rows = np.arange(bench.count(task))[::-1].copy()
            dataset_rows = it.dataset.rows(split, task).flip(0)
            seen = bench.run(task, rows)
            batch = it.dataset.batch(it.dataset.rows(split, task)).only({task})
            with torch.no_grad():
                (raw,) = network(batch.parts, batch.labels).raw.values()
            torch.testing.assert_close(seen.raw.detach(), raw.flip(0))
            assert len(dataset_rows) == len(seen.features)
    with pytest.raises(ValueError, match="not 'test'"):
        NetworkBench(it, network, "test")


def test_its_losses_are_those_of_training():
    it = plan()
    network = make_network(it, 0)
    bench = NetworkBench(it, network)
    rows = np.arange(9)
    raw = bench.run("grade", rows).raw
    target = it.dataset.labels("grade", "train").target[:9]
    wanted = torch.nn.functional.cross_entropy(raw, target.long(), reduction="none")
    torch.testing.assert_close(bench.loss("grade", rows, bench.run("grade", rows)), wanted)
