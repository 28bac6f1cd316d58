from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from studies import ENCODER, TARGETS, dataset, table

import plait
from plait.comparing import Progress, Study
from plait.data import DataSpec, TableSpec, TaskSpec


def declare(data: object, out: Path, **given: object) -> Study:
    return plait.compare(data, out=out, encoder=ENCODER, run=False, **given)


def test_tables_of_every_sort_make_the_same_study(tmp_path: Path) -> None:
    frame = table(80)
    frame.write_parquet(tmp_path / "rows.parquet")
    sources = {
        "polars": frame,
        "pandas": frame.to_pandas(),
        "arrow": frame.to_arrow(),
        "path": tmp_path / "rows.parquet",
        "text": str(tmp_path / "rows.parquet"),
        "spec": DataSpec(tables={"table": TableSpec(source=frame)}),
    }
    tasks = [
        declare(source, tmp_path / name, targets=["click", "price"]).tasks
        for name, source in sources.items()
    ]
    assert all(found.names == ("click", "price") for found in tasks)
    assert all(found["click"].kind == "binary" for found in tasks)


def test_a_dict_is_a_table_of_columns_or_several_tables(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=60)
    columns = {"x": x, "y": (x > 0).astype(int)}
    assert declare(columns, tmp_path / "a", targets=["y"]).tasks.names == ("y",)
    tables = {
        "first": pl.DataFrame({"x": x, "a": (x > 0).astype(int)}),
        "second": pl.DataFrame({"x": x, "b": x * 2}),
    }
    tasks = {"a": {"table": "first", "target": "a"}, "b": {"table": "second", "target": "b"}}
    found = declare(tables, tmp_path / "b", tasks=tasks)
    assert {task.name: task.kind for task in found.tasks} == {"a": "binary", "b": "real"}


def test_tasks_are_told_in_many_ways(tmp_path: Path) -> None:
    frame = table(80)
    for number, tasks in enumerate(
        [
            {"click": None, "price": "regression"},
            {"click": {"target": "click"}, "price": TaskSpec(target="price")},
            ["click", "price"],
        ]
    ):
        found = declare(frame, tmp_path / str(number), tasks=tasks).tasks
        assert [task.kind for task in found] == ["binary", "real"]
    assert declare(frame, tmp_path / "t", targets={"price": "real"}).tasks.names == ("price",)


def test_separate_and_plain_baselines_are_always_there(tmp_path: Path) -> None:
    found = declare(table(80), tmp_path, targets=["click"], strategies={"mine": "joint"})
    assert list(found.strategies)[:2] == ["separate", "mine"]
    assert {"prior", "linear", "forest", "boosting"} <= found.strategies.keys()
    assert list(found.given) == ["mine"]
    usual = declare(table(80), tmp_path, targets=["click"])
    assert {"joint", "weighted", "projected", "experts", "merged"} <= usual.strategies.keys()
    empty = declare(table(80), tmp_path, targets=["click"], strategies={"joint": {}, "prior": None})
    assert {"joint", "prior"} == empty.given.keys()


def test_mistakes_are_told_with_the_fix(tmp_path: Path) -> None:
    frame = table(80)
    for given, message in [
        ({}, "give either targets .* or tasks"),
        ({"targets": ["click"], "tasks": ["click"]}, "give either targets .* or tasks"),
        ({"targets": ["clicks"]}, "did you mean 'click'"),
        ({"targets": ["click"], "training": {"pases": 3}}, "'pases'; did you mean 'passes'"),
        ({"tasks": {"click": {"tarjet": "click"}}}, "'tarjet'; did you mean 'target'"),
        ({"targets": ["click"], "strategies": ["jint"]}, "'jint'; did you mean 'joint'"),
        ({"targets": ["click"], "tune": {"trails": 3}}, "'trails'; did you mean 'trials'"),
    ]:
        with pytest.raises(ValueError, match=message):
            declare(frame, tmp_path / "run", **given)
    with pytest.raises(ValueError, match="a Dataset has its tasks already"):
        declare(dataset(), tmp_path / "run", targets=["click"])
    assert not (tmp_path / "run" / "cells").exists()


def test_without_a_folder_the_run_is_temporary() -> None:
    study = plait.compare(
        table(80), targets=["click"], strategies=["joint"], encoder=ENCODER,
        training={"passes": 1}, seeds=1, progress=Progress(),
    )  # fmt: skip
    assert study.folder.exists()
    assert study.failures() == []


def test_a_sample_is_said(tmp_path: Path) -> None:
    study = plait.compare(
        table(400), targets=["price"], strategies=["joint"], encoder=ENCODER, sample=0.5,
        training={"passes": 1}, seeds=1, out=tmp_path, progress=Progress(),
    )  # fmt: skip
    assert 100 < len(study.plans[0].dataset) < 300
    assert any("sample of 50%" in note for note in study.results.notes)


def test_labels_and_targets_of_the_small_study_agree(study: Study) -> None:
    assert study.tasks.names == TARGETS
