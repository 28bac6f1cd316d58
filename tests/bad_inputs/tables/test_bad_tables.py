"""Every bad table is one message with file, place, task and fix, whichever way it comes in."""

# A case is easier to read with its message on one line.
# ruff: noqa: E501

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from table_cases import CASES, ROWS, Case, columns, csv, cycle

import plait
from plait.cli import main
from plait.data import DataError, Dataset, DataSpec, TableSpec, TaskSpec, load


def lay(case: Case, folder: Path) -> Path:
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "study.yaml").write_text(case.study)
    return folder / "study.yaml"


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main.run(list(words))
    return int(end.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_validate_says_what_is_wrong_where_and_what_to_do(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(case, tmp_path)
    monkeypatch.chdir(tmp_path)
    code, said = command(capsys, "validate", "study.yaml")
    assert code == 1, said
    missing = [part for part in case.said if part not in said]
    assert not missing, f"{said}\nlacks {missing}"
    assert "Traceback" not in said
    assert "--debug" not in said
    assert len(said) < 900


def test_the_corpus_is_large_and_its_cases_differ() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 80
    assert len({(str(case.files), case.study) for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    "name", ["short row", "contradictory labels", "where on an unknown column", "no test label"]
)
def test_compare_refuses_the_same_before_it_computes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = next(case for case in CASES if case.name == name)
    lay(case, tmp_path)
    monkeypatch.chdir(tmp_path)
    code, said = command(capsys, "compare", "study.yaml", "--out", "run")
    assert code == 1
    assert all(part in said for part in case.said), said
    assert not list(tmp_path.glob("run/cells/*"))


@pytest.mark.parametrize(
    ("source", "tasks", "said"),
    [
        ({"x": np.arange(60.0), "y": np.arange(59) % 2}, {"y": None}, "arrays of differing lengths: x 60, y 59"),
        ({"x": np.arange(60.0), "y": [1, "a"] * 30}, {"y": None}, "'y' mixes values of several types"),
        ({"x": np.arange(60.0), "y": 3}, {"y": None}, "'y' is a single value, not a column"),
        (pl.DataFrame({"x": [], "y": []}), {"y": None}, "table 'table': no rows"),
        (pl.DataFrame({"x": cycle(0.5, 1.5, r9=float("inf")), "y": cycle(0, 1)}), {"y": None}, "row 9: 'x' is inf, which is infinite"),
        (pl.DataFrame({"x": cycle(1, 2), "y": cycle("p", "q")}), {"z": "binary"}, "no column 'z' for task 'z'"),
        (pl.DataFrame({"x": cycle(1, 2), "y": cycle(0, 1)}), {"y": {"kind": "binray"}}, "no kind 'binray'; did you mean 'binary'"),
        (pl.DataFrame({"x": cycle(1, 2), "y": cycle(0, 1)}), {"y": {"wehre": "x > 1"}}, "no setting 'wehre'; did you mean 'where'"),
        (pl.DataFrame({"x": cycle(1, 2), "y": cycle(0, 1)}), {"y": {"where": "xy > 1"}}, "no column 'xy'; did you mean"),
        ("nothing.csv", {"y": None}, "no file 'nothing.csv'"),
        (object(), {"y": None}, "cannot read a object; give a path, or a polars, pandas"),
    ],
)  # fmt: skip
def test_tables_in_python_are_refused_alike(source, tasks, said, tmp_path: Path) -> None:
    with pytest.raises((DataError, ValueError)) as error:
        plait.compare(source, tasks, strategies=["joint"], out=tmp_path / "run")
    assert said in str(error.value)


def fitted() -> Dataset:
    table = pl.DataFrame(
        {"x": np.arange(ROWS) * 0.7, "colour": cycle("red", "blue"), "v": [[1.0, 2.0]] * ROWS,
         "school": cycle("a", "b"), "y": cycle(0, 1)}
    )  # fmt: skip
    data = DataSpec(tables={"t": TableSpec(source=table, types={"colour": "categorical"})})
    return load(data, {"y": TaskSpec(by="school")})


NEW = {"x": [1.0, 2.0], "colour": ["red", "green"], "v": [[1.0, 2.0]] * 2, "school": ["a", "b"]}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"x": None}, "no column 'x'"),
        ({"school": ["a", "c"]}, "row 2: no task for school 'c'"),
        ({"x": [1.0, float("inf")]}, "row 2: 'x' is inf, which is infinite"),
        ({"x": ["1", "two"]}, "row 2: 'x' is 'two', which is no number"),
        ({"v": [[1.0, 2.0], [1.0]]}, "row 2: 'v' has 1 values where others have 2"),
        ({"v": [[1.0, 2.0, 3.0]] * 2}, "'v' has 3 values, but 2 in training"),
    ],
)
def test_rows_to_predict_are_refused_with_their_place(changed, said) -> None:
    dataset = fitted()
    rows = pl.DataFrame({name: v for name, v in {**NEW, **changed}.items() if v is not None})

    def read() -> None:
        dataset.preparation.encode(rows)
        dataset.preparation.asked(rows, dataset.tasks)

    with pytest.raises(DataError) as error:
        read()
    assert said in str(error.value)


def test_a_category_unknown_in_training_is_no_fault() -> None:
    part = fitted().preparation.encode(pl.DataFrame(NEW))
    assert part["categorical"][1, 0] == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (("\ufeff" + csv()).encode(), "60 rows"),
        (csv().replace("\n", "\r\n").encode(), "60 rows"),
        (csv(r5="m5,,1").encode(), "60 rows"),
        (columns(zip=[f"{number:03d}" for number in range(ROWS)]).encode(), "60 rows"),
    ],
    ids=["BOM", "CRLF", "missing value", "zeros in front"],
)
def test_what_looks_odd_but_is_sound_is_read(content, said, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    dataset = load(DataSpec(tables={"t": TableSpec(source=path)}, id="id"), {"y": TaskSpec()})
    assert said in " ".join(dataset.facts)
    zips = [column for column in dataset.columns if column.role == "zip"]
    assert all(column.type in ("text", "ignored", "categorical") for column in zips)


def test_a_file_that_changes_under_our_hands_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    held = io.BytesIO()
    pl.DataFrame({"x": np.arange(60.0), "y": np.arange(60) % 2}).write_parquet(held)
    path.write_bytes(held.getvalue()[:-20])
    with pytest.raises(DataError, match=r"t\.parquet: not a readable Parquet file"):
        load(DataSpec(tables={"t": TableSpec(source=path)}), {"y": TaskSpec()})
