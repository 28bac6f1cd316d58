"""Nine people and their data, each from the first command to what they came for.

The ninth, who ends a notebook with the leaderboard, is in ``test_notebook.py``. Of three there is a
big form among the slow tests; it runs each command in a process of its own and prints the cost:
``pytest tests/walks -m slow -rP``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from walking import TINY, Plait, apart, assays, log, shop, texts, within, write

import plait as library

SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def plait(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Plait:
    big = request.node.get_closest_marker("slow")
    return apart if big else partial(within, capsys)


def sizes(small: int, big: int) -> list[object]:
    """The rows of a walk's two forms."""
    return [small, pytest.param(big, marks=SLOW)]


def rows_of(said: str, word: str) -> list[list[str]]:
    """The rows of printed tables that begin with a word, as their cells."""
    found = [line.replace("│", " ").split() for line in said.splitlines()]
    return [cells for cells in found if cells[:1] == [word]]


@pytest.mark.parametrize("rows", sizes(1_000, 1_000_000))
def test_a_recommender_log_whose_labels_follow_a_click(here: Path, plait: Plait, rows: int) -> None:
    clicks, events = 0, []
    for number in range(3):
        frame = log(number * rows, rows)
        frame.write_csv(here / f"log-{number}.csv")
        clicks += int(frame["click"].sum())
        events.append(frame["event"])
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
    said = plait("validate study.yaml")
    for task, labels in (("click", 3 * rows), ("like", clicks), ("seconds", clicks)):
        (cells,) = rows_of(said, task)
        assert sum(int(cell.replace(",", "")) for cell in cells[2:5]) == labels
    assert f"click and like: {clicks:,}" in said
    sample = "" if rows == 1_000 else " --sample 2%"
    said = plait(f"compare study.yaml --out run{sample}")
    for way in ("separate", "joint", "prior", "linear", "forest"):
        assert f" {way} " in said
    assert (here / "run" / "report.html").stat().st_size < 2_000_000
    plait("predict run log-*.csv -o liked.parquet")
    found = pl.read_parquet(here / "liked.parquet")
    assert found["event"].equals(pl.concat(events))
    assert found.select("click", "like", "seconds").null_count().sum_horizontal().item() == 0


@pytest.mark.parametrize(("columns", "rows"), [(12, 200), pytest.param(600, 2_000, marks=SLOW)])
def test_assays_named_by_a_pattern_most_labels_missing(
    here: Path, plait: Plait, columns: int, rows: int
) -> None:
    frame = assays(columns, rows)
    frame.write_parquet(here / "assays.parquet")
    missing = sum(frame[name].null_count() for name in frame.columns if name[:5] == "assay")
    write(
        here,
        "study.yaml",
        "data: {table: assays.parquet, id: molecule}\n"
        "tasks: {assays: {columns: assay_*, kind: binary, unseen: skip}}\n"
        "strategies: {joint: {}}\n" + TINY,
    )
    said = plait("validate study.yaml")
    assert f"{columns} tasks, " in said
    assert f"{missing / (columns * rows):.1%} of the labels are missing" in said
    assert (f"and {columns - 30} more tasks" in said) == (columns > 30)
    plait("compare study.yaml --out run")
    page = (here / "run" / "report.html").read_text("utf-8")
    assert f"assay_{columns - 1:03d}" in page
    figures = plait("report run --csv")
    assert f"assay_{columns - 1:03d}" in figures
    assert json.loads(plait("status run --json"))["failed"] == 0


@pytest.mark.parametrize("rows", sizes(40, 2_000))
def test_eight_text_tables_with_columns_of_their_own(here: Path, plait: Plait, rows: int) -> None:
    tables, tasks = [], []
    for number in range(8):
        said, good = texts(number, rows)
        if number == 7:  # another film site has the reviews of the first one
            said, good = texts(0, rows)
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
    said = plait("validate study.yaml")
    assert "8 tasks" in said
    assert "rows of t7" in said
    assert "are training rows of t0" in " ".join(said.split())
    said = plait("compare study.yaml --out run")
    assert "joint" in said
    pl.DataFrame({"text_5": ["warm and lively", "dull and slow"]}).write_csv(here / "new.csv")
    plait("predict run new.csv --table t5 -o new.parquet")
    found = pl.read_parquet(here / "new.parquet")
    # All eight read the role text, so that all can be asked of these rows.
    assert set(found.columns) == {f"mood_{number}" for number in range(8)}
    warm, dull = found.row(0, named=True), found.row(1, named=True)
    assert warm["mood_5"] > dull["mood_5"]
    told = plait("predict run new.csv --table t4 -o new.parquet", code=1)
    assert "no column 'text_4'; did you mean 'text_5'?" in told


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


def test_a_csv_and_a_study_that_is_inferred(here: Path, plait: Plait) -> None:
    shop(300).write_csv(here / "shop.csv")
    plait("init shop.csv --targets bought,price -o study.yaml --yes")
    text = (here / "study.yaml").read_text("utf-8")
    assert "#" in text
    said = plait("validate study.yaml")
    assert "is fine: 2 tasks" in said
    write(here, "study.yaml", text + ("" if "\ntraining:" in text else "training: {passes: 1}\n"))
    said = plait("compare study.yaml --out run --dry-run")
    assert "cells" in said
    plait("train study.yaml --strategy joint -o model")
    shop(20, seed=5).drop("bought", "price").write_csv(here / "new.csv")
    plait("predict model new.csv -o new.csv.out.csv")
    assert len(pl.read_csv(here / "new.csv.out.csv")) == 20


def test_a_study_on_four_shards_and_its_one_report(here: Path, plait: Plait) -> None:
    shop(200).write_parquet(here / "shop.parquet")
    write(
        here,
        "study.yaml",
        "data: {table: shop.parquet, id: order}\n"
        "tasks: {bought: binary, price: real}\n"
        "strategies: {joint: {}, merged: merge}\n" + TINY,
    )
    for number in range(1, 5):
        said = plait(f"compare study.yaml --out run --shard {number}/4")
        assert (here / "run" / "report.html").exists() == (number == 4)
        assert ("This shard is done" in said) == (number < 4)
    told = json.loads(plait("status run --json"))
    assert (told["done"], told["failed"]) == (told["total"], 0)
    table = plait("report run --md")
    for way in ("separate", "joint", "merged", "prior"):
        assert f"| {way}" in table


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


def test_a_model_moved_to_another_folder_and_loaded_there(here: Path, plait: Plait) -> None:
    frame = shop(200)
    frame.write_parquet(here / "shop.parquet")
    write(here, "study.yaml", STUDY)
    plait("train study.yaml --strategy joint -o model")
    plait("predict model shop.parquet -o before.parquet")
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
    for said in ("| bought | binary | no, yes |", "| stars |", "| price |", "Strategy joint"):
        assert said in card, said
    assert "shop.parquet: 200 rows" in card
    assert str(here) not in card
    rows = re.findall(r"^\| (\S+) \| `([0-9a-f]{64})` \|$", card.replace("\\", ""), re.MULTILINE)
    files = {str(each.relative_to(away)) for each in away.rglob("*") if each.is_file()}
    assert dict(rows).keys() == files - {"README.md", "manifest.json"}
    for name, digest in rows:
        assert hashlib.sha256((away / name).read_bytes()).hexdigest() == digest


def test_onnx_in_onnxruntime_on_the_user_s_own_rows(here: Path, plait: Plait) -> None:
    import onnxruntime

    frame = shop(200)
    frame.write_parquet(here / "shop.parquet")
    write(here, "study.yaml", STUDY)
    plait("train study.yaml --strategy joint -o model")
    said = plait("export model --onnx shop.onnx --rows shop.parquet")
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
