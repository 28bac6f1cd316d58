"""The real data sets load as they are meant; skipped where they are absent."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from plait.data import DataSpec, Rows, TableSpec, TaskSpec, load

pytestmark = pytest.mark.data

TEXTS = (
    "sentiment_sst2", "customer_review", "subjectivity", "opinion_polarity", "question_type",
    "acceptability_cola", "entailment_rte",
)  # fmt: skip


def test_tox21(real_data):
    data = DataSpec(tables={"t": TableSpec(source=real_data / "tox21.parquet")}, id="mol_id")
    dataset = load(data, {"assays": TaskSpec(columns=["NR-*", "SR-*"])})
    table = pl.read_parquet(real_data / "tox21.parquet")
    assert len(dataset.tasks) == 12
    assert {task.kind for task in dataset.tasks} == {"binary"}
    assert list(dataset.inputs) == ["text.smiles"]
    labels = sum(sum(dataset.counts(split).values()) for split in ("train", "valid", "test"))
    assert labels == sum(table[name].count() for name in dataset.tasks.names)
    assert any("17.3% of the labels are missing" in fact for fact in dataset.facts)


def test_school(real_data):
    data = DataSpec(tables={"t": TableSpec(source=real_data / "school.parquet")})
    dataset = load(data, {"exam": TaskSpec(by="school", target="exam_score")})
    assert len(dataset.tasks) == 139
    assert set(dataset.tasks.groups) == {"real"}
    batch = Rows(dataset, batch=256, seed=0).batch(0)
    table = pl.read_parquet(real_data / "school.parquet")
    labels = batch.labels["real"]
    names = [dataset.tasks[int(task)] for task in labels.task]
    rows = batch.ids[labels.rows].numpy()
    assert [f"exam[{school}]" for school in table["school"].gather(rows)] == [t.name for t in names]
    back = [t.center + t.scale * y for t, y in zip(names, labels.target.tolist(), strict=True)]
    assert np.allclose(back, table["exam_score"].gather(rows).to_numpy(), atol=1e-4)


def test_census_income(real_data):
    data = DataSpec(
        tables={
            "t": TableSpec(source=real_data / "census_income.parquet", ignore=["instance_weight"])
        }
    )
    tasks = {
        "income": TaskSpec(),
        "never": TaskSpec(target="marital_status", positive="Never married"),
    }
    dataset = load(data, tasks)
    assert dataset.tasks["income"].classes == ("- 50000.", "50000+.")
    assert len(dataset.inputs["categorical"].sizes) > 25
    assert sum(dataset.counts(split)["income"] for split in ("train", "valid", "test")) == 99_762
    assert dataset.truth("never", "train")[1].mean() == pytest.approx(0.43, abs=0.02)


def test_several_tables_of_texts(real_data):
    tables = {
        name: TableSpec(
            source=real_data / "text" / f"{name}.parquet",
            inputs={"text": ["text", "text_b"] if name == "entailment_rte" else "text"},
        )
        for name in (*TEXTS, "intent_clinc150")
    }
    tasks = {name: TaskSpec(table=name, target="label") for name in TEXTS}
    dataset = load(
        DataSpec(tables=tables), tasks | {"intent": TaskSpec(), "domain": TaskSpec()}, sample=0.2
    )
    assert list(dataset.inputs) == ["text.text"]
    kinds = {task.name: (task.kind, len(task.classes)) for task in dataset.tasks}
    assert kinds["question_type"] == ("classes", 6)
    assert kinds["intent"] == ("classes", 151)
    assert kinds["sentiment_sst2"] == ("binary", 2)
    batch = Rows(dataset, batch=64, seed=0).batch(0)
    assert list(batch.parts) == ["text.text"]
    assert len({int(dataset.table[row]) for row in batch.ids}) > 4


def test_images(real_data):
    names = ("mnist", "notmnist", "usps")
    tables = {name: TableSpec(source=real_data / "images" / f"{name}.npz") for name in names}
    dataset = load(DataSpec(tables=tables), {n: TaskSpec(table=n, target="label") for n in names})
    assert {task.group for task in dataset.tasks} == {"classes-10"}
    images = dataset.batch(dataset.rows("train")).parts["image.image"]["image.image"]
    assert images.shape[1:] == (1, 28, 28)
    assert float(images.mean()) == pytest.approx(0, abs=1e-3)
    assert float(images.std()) == pytest.approx(1, abs=1e-3)


def test_sarcos(real_data):
    data = DataSpec(tables={"t": TableSpec(source=real_data / "sarcos.parquet")})
    dataset = load(data, {"torque": TaskSpec(columns="torque_*")})
    assert len(dataset.tasks) == 7
    assert dataset.inputs["numeric"].shape == (21,)
    targets = dataset.labels("torque_3", "train").target
    assert float(targets.mean()) == pytest.approx(0, abs=1e-4)
    assert torch.isfinite(targets).all()
