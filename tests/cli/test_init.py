"""``plait init``: the study it writes is commented, says what was inferred, and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from plait.cli import console, init
from plait.data import load
from plait.recipes import read


@pytest.fixture
def table(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    rows = 200
    path = tmp_path / "data.csv"
    pl.DataFrame(
        {
            "user_id": [f"u{i}" for i in range(rows)],
            "age": random.integers(18, 80, rows),
            "job # [x]": random.choice(["cook", "nurse", "clerk"], rows),
            "click": random.choice(["no", "yes"], rows),
            "stars": random.integers(1, 6, rows),
            "price": random.normal(50, 10, rows).round(2),
        }
    ).write_csv(path)
    return path


def run(source: Path, targets: str | None, out: Path, **more: bool) -> str:
    init.init(str(source), targets, out, yes=True, force=more.get("force", False))
    return out.read_text()


def read_study(source: Path, targets: str, out: Path) -> Any:
    run(source, targets, out)
    return read(out)


def test_the_study_it_writes_is_read_and_loads(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table.parent)
    out = Path("studies") / "s.yaml"
    text = run(Path("data.csv"), "click,stars,price", out)
    spec = read(out)
    assert spec.data.tables["table"].source == "../data.csv"
    assert spec.data.id == "user_id"
    assert {name: task.kind for name, task in spec.tasks.items()} == {
        "click": "binary", "stars": "classes", "price": "real",
    }  # fmt: skip
    assert spec.data.tables["table"].types == {"age": "numeric", "job # [x]": "categorical"}
    assert "separate" in spec.strategies
    assert "'yes' is positive" in text
    located = spec.located(out.parent)
    assert len(load(located.data, located.tasks)) == 200


def test_patterns_make_one_task_a_column(table: Path, tmp_path: Path) -> None:
    source = tmp_path / "assays.parquet"
    frame = pl.read_csv(table).with_columns(
        assay_1=pl.col("age") > 40,
        assay_2=pl.col("age") > 60,
        split=pl.Series(["train"] * 120 + ["valid"] * 40 + ["test"] * 40),
    )
    frame.write_parquet(source)
    run(source, "assay_*,price", tmp_path / "s.yaml")
    spec = read(tmp_path / "s.yaml")
    assert spec.tasks["assay"].columns == ("assay_*",)
    assert spec.data.split is not None
    assert spec.data.split.kind == "column"


def test_a_column_that_is_not_there(table: Path) -> None:
    with pytest.raises(ValueError, match="no column 'clik'; did you mean 'click'"):
        run(table, "clik", table.parent / "s.yaml")


def test_without_targets_the_columns_are_named(table: Path) -> None:
    with pytest.raises(console.InputError, match="user_id, age"):
        run(table, None, table.parent / "s.yaml")


def test_an_existing_study_is_not_replaced(table: Path) -> None:
    out = table.parent / "s.yaml"
    out.write_text("mine")
    with pytest.raises(console.InputError, match="exists"):
        run(table, "click", out)
    assert out.read_text() == "mine"
    assert "tasks:" in run(table, "click", out, force=True)


def test_names_from_data_cannot_write_yaml_of_their_own(tmp_path: Path) -> None:
    source = tmp_path / "d.parquet"
    hostile = "x\ntraining: {passes: 9}\n\x1b[2J#"
    pl.DataFrame(
        {hostile: range(100), "age": range(100), "y": ["a\u2028seeds: 9", "b"] * 50}
    ).write_parquet(source)
    text = run(source, "y", tmp_path / "s.yaml")
    spec = read(tmp_path / "s.yaml")
    assert spec.training.passes == 30
    assert spec.seeds == {"init": 3, "split": 1}
    assert hostile in spec.data.tables["table"].types
    assert "\x1b" not in text


def test_on_a_terminal_it_asks_only_where_it_is_unsure(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def prompt(text: str, default: str = "") -> str:
        asked.append(default)
        return "grades" if len(asked) == 1 else "ordinal"

    monkeypatch.setattr(console, "interactive", lambda: True)
    monkeypatch.setattr(init.typer, "prompt", prompt)
    out = table.parent / "s.yaml"
    init.init(str(table), "click,stars,price", out, yes=False, force=False)
    assert asked == ["classes", "classes"]  # stars only, and again after a word that is no kind
    assert read(out).tasks["stars"].kind == "ordinal"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    random = np.random.default_rng(1)
    rows = 400
    path = tmp_path / "log.csv"
    pl.DataFrame(
        {
            "user_id": random.integers(0, 40, rows),
            "seen": [f"2024-{1 + row % 12:02d}-{1 + row % 28:02d}" for row in range(rows)],
            "tags": ["|".join(random.choice(list("abcd"), 3)) for _ in range(rows)],
            "place": [f"[{x:.2f}, {x * x:.2f}]" for x in random.normal(size=rows)],
            "price": [f"{number:,}" for number in random.integers(1000, 9999, rows)],
            "age": random.integers(18, 80, rows),
            "note": random.choice(["a fine thing it was", "never again, too slow"], rows),
            "grade": np.where(random.random(rows) < 0.1, -1, random.integers(1, 6, rows)),
            "click": random.choice(["no", "yes"], rows),
        }
    ).write_csv(path, separator=";")
    return path


def test_it_names_everything_uncertain_and_what_to_write_instead(log: Path) -> None:
    out = log.parent / "s.yaml"
    text = run(log, "click,grade", out)
    unsure = [row for row in text.splitlines() if row.startswith("# Unsure: ")]
    assert any("grade holds whole numbers" in row for row in unsure)
    assert any("10% of grade is -1; if that means no label, add missing: [-1]" in r for r in unsure)
    assert any("user_id repeats (40 values)" in row and "by: user_id}" in row for row in unsure)
    assert any("{time: [0.8, 0.1, 0.1], by: seen}" in row for row in unsure)
    assert any("place is read as vectors" in row for row in unsure)
    spec = read(out)
    types = spec.data.tables["table"].types
    assert types["place"] == "vector"
    assert types["tags"] == "list"
    assert types["price"] != "vector"
    located = spec.located(log.parent)
    dataset = load(located.data, located.tasks)
    assert {"vector.place", "list.tags"} <= set(dataset.inputs)


def test_on_a_terminal_it_asks_for_the_column_that_owns_rows(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def confirm(text: str, *, default: bool) -> bool:
        asked.append(text)
        return default

    monkeypatch.setattr(console, "interactive", lambda: True)
    monkeypatch.setattr(init.typer, "prompt", lambda text, default="": default)
    monkeypatch.setattr(init.typer, "confirm", confirm)
    out = log.parent / "s.yaml"
    init.init(str(log), "click", out, yes=False, force=False)
    assert len(asked) == 1
    assert asked[0].startswith("user_id repeats (40 values)")
    spec = read(out)
    assert spec.data.split is not None
    assert (spec.data.split.kind, spec.data.split.by) == ("grouped", "user_id")
    assert spec.data.intervals == "user_id"


def test_a_column_with_an_id_twice_is_not_declared_as_the_id(tmp_path: Path) -> None:
    source = tmp_path / "d.csv"
    ids = [f"k{number}" for number in range(99)] + ["k0"]
    pl.DataFrame({"row_id": ids, "x": range(100), "y": ["a", "b"] * 50}).write_csv(source)
    run(source, "y", tmp_path / "s.yaml")
    assert read(tmp_path / "s.yaml").data.id is None


def test_a_column_that_names_train_and_test_is_the_split(table: Path, tmp_path: Path) -> None:
    source = tmp_path / "parts.csv"
    parts = pl.Series("part", ["Train"] * 120 + ["validation"] * 40 + ["test"] * 40)
    pl.read_csv(table).with_columns(parts).write_csv(source)
    spec = read_study(source, "price", tmp_path / "s.yaml")
    assert (spec.data.split.kind, spec.data.split.by) == ("column", "part")
    assert "part" not in spec.data.tables["table"].types
    located = spec.located(tmp_path)
    assert load(located.data, located.tasks).counts("test") == {"price": 40}
    words = [*parts.to_list()[:-1], "final"]  # no part, so a category like any other
    pl.read_csv(table).with_columns(pl.Series("part", words)).write_csv(source)
    spec = read_study(source, "price", tmp_path / "t.yaml")
    assert spec.data.split.kind == "random"
    assert spec.data.tables["table"].types["part"] == "categorical"
