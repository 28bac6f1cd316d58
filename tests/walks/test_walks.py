"""Nine people and their data, each from the first command to what they came for.

The ninth, who ends a notebook with the leaderboard, is in ``test_notebook.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from walking import TINY, assays, log, plait, shop, texts, write

import plait as library

Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(said: str, word: str) -> list[list[str]]:
    """The rows of printed tables that begin with a word, as their cells."""
    found = [line.replace("│", " ").split() for line in said.splitlines()]
    return [cells for cells in found if cells[:1] == [word]]


@pytest.mark.parametrize("rows", [1_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_recommender_log_whose_labels_follow_a_click(
    here: Path, capsys: Printed, rows: int
) -> None:
    files = [log(start, rows) for start in (0, rows, 2 * rows)]
    for number, frame in enumerate(files):
        frame.write_csv(here / f"log-{number}.csv")
    write(
        here,
        "study.yaml",
        "data: {table: log-*.csv, id: event, split: {random: [0.6, 0.2, 0.2]}}\n"
        "tasks:\n"
        "  click: binary\n"
        "  like: {kind: binary, where: click == 1, missing: [-1]}\n"
        "  seconds: {kind: real, where: click == 1}\n"
        "strategies: {joint: {}}\n" + TINY,
    )
    clicks = sum(int(frame["click"].sum()) for frame in files)
    said = plait("validate study.yaml", capsys)
    for task, labels in (("click", 3 * rows), ("like", clicks), ("seconds", clicks)):
        (cells,) = rows_of(said, task)
        assert sum(int(cell.replace(",", "")) for cell in cells[2:5]) == labels
    assert f"click and like: {clicks:,}" in said
    sample = "" if rows == 1_000 else " --sample 1%"
    said = plait(f"compare study.yaml --out run{sample}", capsys)
    for way in ("separate", "joint", "prior", "linear", "forest"):
        assert way in said
    assert (here / "run" / "report.html").stat().st_size < 2_000_000
    plait("predict run log-1.csv -o liked.parquet", capsys)
    found = pl.read_parquet(here / "liked.parquet")
    assert found["event"].equals(files[1]["event"])
    assert found.select(pl.col("^like.*$")).width > 0


@pytest.mark.parametrize("columns", [30, pytest.param(600, marks=pytest.mark.slow)])
def test_assays_named_by_a_pattern_most_labels_missing(
    here: Path, capsys: Printed, columns: int
) -> None:
    assays(columns, 600).write_parquet(here / "assays.parquet")
    write(
        here,
        "study.yaml",
        "data: {table: assays.parquet, id: molecule}\n"
        "tasks: {assays: {columns: assay_*, kind: binary, unseen: skip}}\n"
        "strategies: {joint: {}}\n" + TINY,
    )
    said = plait("validate study.yaml", capsys)
    assert f"{columns} tasks, " in said
    assert "of the labels are missing" in said
    assert (f"and {columns - 30} more tasks" in said) == (columns > 30)
    plait("compare study.yaml --out run", capsys)
    page = (here / "run" / "report.html").read_text("utf-8")
    assert f"assay_{columns - 1:03d}" in page
    plait("report run --csv", capsys)
    told = plait("status run --json", capsys)
    assert json.loads(told)["failed"] == 0


@pytest.mark.slow
def test_eight_text_tables_with_columns_of_their_own(here: Path, capsys: Printed) -> None:
    tables, tasks = [], []
    for number in range(8):
        said, good = texts(number, 60)
        if number == 7:  # another film site has the reviews of the first one
            said, good = texts(0, 60)
            said = [text.upper() + "!" for text in said]
        column = f"text_{number}"
        frame = pl.DataFrame({column: said, f"label_{number}": good})
        inputs = f"text: {column}"
        if number == 3:  # a pair of texts
            frame = frame.with_columns(title=pl.lit("a film"))
            inputs = f"text: [title, {column}]"
        frame.write_csv(here / f"table-{number}.csv")
        tables.append(f"    t{number}: {{path: table-{number}.csv, inputs: {{{inputs}}}}}\n")
        tasks.append(f"  mood_{number}: {{table: t{number}, target: label_{number}}}\n")
    write(
        here,
        "study.yaml",
        "data:\n  tables:\n" + "".join(tables) + "tasks:\n" + "".join(tasks) +
        "strategies: {joint: {}}\n" + TINY,
    )  # fmt: skip
    said = plait("validate study.yaml", capsys)
    assert "8 tasks" in said
    assert "rows of t7" in said
    assert "are training rows of t0" in " ".join(said.split())
    said = plait("compare study.yaml --out run", capsys)
    assert "joint" in said
    pl.DataFrame({"text_5": ["warm and lively", "dull and slow"]}).write_csv(here / "new.csv")
    plait("predict run new.csv --table t5 -o new.parquet", capsys)
    found = pl.read_parquet(here / "new.parquet")
    assert len(found) == 2
    # All eight read the role text, so that all can be asked of these rows.
    assert set(found.columns) == {f"mood_{number}" for number in range(8)}


def test_a_data_frame_with_three_columns_to_predict(here: Path) -> None:
    frame = shop(300).to_pandas()
    targets = ["bought", "stars", "price"]
    study = library.compare(
        frame.drop(columns="order"), targets=targets, strategies=["joint"], out=here / "run",
        encoder={"trunk": {"mlp": {"width": 8, "depth": 1}}}, training={"passes": 2}, seeds=1,
    )  # fmt: skip
    board = study.leaderboard()
    assert {row.strategy for row in board} >= {"separate", "joint", "prior", "linear", "forest"}
    assert "<table" in board._repr_html_()
    assert not study.failures()
    best = study.best()
    found = best.predict(frame.drop(columns=["order", *targets]).head(7))
    assert len(found) == 7
    assert {name.split(".")[0].split("[")[0] for name in found.columns} >= set(targets)
    assert np.isfinite(found["price"].to_numpy()).all()


def test_a_csv_and_a_study_that_is_inferred(here: Path, capsys: Printed) -> None:
    shop(300).write_csv(here / "shop.csv")
    plait("init shop.csv --targets bought,price -o study.yaml --yes", capsys)
    text = (here / "study.yaml").read_text("utf-8")
    assert "#" in text
    said = plait("validate study.yaml", capsys)
    assert "is fine: 2 tasks" in said
    write(here, "study.yaml", text + ("" if "\ntraining:" in text else "training: {passes: 1}\n"))
    said = plait("compare study.yaml --out run --dry-run", capsys)
    assert "cells" in said
    plait("train study.yaml --strategy joint -o model", capsys)
    shop(20, seed=5).drop("bought", "price").write_csv(here / "new.csv")
    plait("predict model new.csv -o new.csv.out.csv", capsys)
    assert len(pl.read_csv(here / "new.csv.out.csv")) == 20


def test_a_study_on_four_shards_and_its_one_report(here: Path, capsys: Printed) -> None:
    shop(200).write_parquet(here / "shop.parquet")
    write(
        here,
        "study.yaml",
        "data: {table: shop.parquet, id: order}\n"
        "tasks: {bought: binary, price: real}\n"
        "strategies: {joint: {}, merged: merge}\n" + TINY,
    )
    for number in range(1, 5):
        said = plait(f"compare study.yaml --out run --shard {number}/4", capsys)
        assert (here / "run" / "report.html").exists() == (number == 4)
        assert ("This shard is done" in said) == (number < 4)
    told = json.loads(plait("status run --json", capsys))
    assert (told["done"], told["failed"]) == (told["total"], 0)
    table = plait("report run --md", capsys)
    for way in ("separate", "joint", "merged", "prior"):
        assert way in (here / "run" / "report.md").read_text("utf-8") + table


LOADED = """
import sys, polars as pl, plait
model = plait.load(sys.argv[1])
model.predict(pl.read_parquet(sys.argv[2])).write_parquet(sys.argv[3])
"""

STUDY = (
    "data: {table: shop.parquet, id: order}\n"
    "tasks: {bought: binary, stars: ordinal, price: real}\n"
    "strategies: {joint: {}}\n" + TINY
)


def test_a_model_moved_to_another_folder_and_loaded_there(here: Path, capsys: Printed) -> None:
    frame = shop(200)
    frame.write_parquet(here / "shop.parquet")
    write(here, "study.yaml", STUDY)
    plait("train study.yaml --strategy joint -o model", capsys)
    plait("predict model shop.parquet -o before.parquet", capsys)
    away = here / "another place" / "folder"
    away.parent.mkdir()
    shutil.move(here / "model", away)
    command = [sys.executable, "-c", LOADED, str(away), str(here / "shop.parquet"), "after.parquet"]
    subprocess.run(command, check=True, cwd=away.parent, env=dict(os.environ))
    before = pl.read_parquet(here / "before.parquet")
    after = pl.read_parquet(away.parent / "after.parquet")
    assert {"bought", "stars", "price"} <= set(after.columns)
    for name in after.columns:
        if after.schema[name].is_float():
            assert np.allclose(before[name], after[name], atol=1e-6)
        else:
            assert before[name].equals(after[name])
    card = (away / "README.md").read_text("utf-8")
    for said in ("bought", "stars", "price", "joint", "shop.parquet", "sha256"):
        assert said in card.lower() or said in card, said
    assert str(here) not in card


def test_onnx_in_onnxruntime_on_the_user_s_own_rows(here: Path, capsys: Printed) -> None:
    import onnxruntime

    frame = shop(200)
    frame.write_parquet(here / "shop.parquet")
    write(here, "study.yaml", STUDY)
    plait("train study.yaml --strategy joint -o model", capsys)
    said = plait("export model --onnx shop.onnx --rows shop.parquet", capsys)
    assert "200 rows" in said
    session = onnxruntime.InferenceSession(here / "shop.onnx")
    given = {}
    for each in session.get_inputs():
        values = frame[each.name].to_numpy()
        kind = {"tensor(float)": np.float32, "tensor(double)": float, "tensor(string)": object}
        given[each.name] = values.astype(kind.get(each.type, np.int64)).reshape(
            (-1, 1) if len(each.shape) == 2 else (-1,)
        )
    names = [each.name for each in session.get_outputs()]
    found = dict(zip(names, session.run(None, given), strict=True))
    mine = library.load(here / "model").predict(frame)
    assert np.allclose(np.ravel(found["price"]), mine["price"], rtol=1e-4, atol=1e-4)
