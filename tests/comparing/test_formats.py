"""Folders of other studies, other versions and other hands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from studies import ENCODER, table

import plait
from plait.comparing import Study
from plait.weights.files import DamagedError


def declare(folder: Path, data: pl.DataFrame | Path, **more: object) -> Study:
    given = {"targets": ["click"], "strategies": ["joint"], "encoder": ENCODER, **more}
    return plait.compare(data, out=folder, run=False, **given)  # type: ignore[arg-type]


def edit(folder: Path, **changes: object) -> None:
    path = folder / "study.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    declare(tmp_path / "run", table(80), title="First").write()
    return tmp_path / "run"


def test_another_study_is_refused_and_what_differs_is_named(folder: Path) -> None:
    other = declare(folder, table(80), targets=["click", "price"])
    with pytest.raises(ValueError, match=r"another study, 'First': its tasks are others \(\+price"):
        other.write()
    assert json.loads((folder / "study.json").read_text("utf-8"))["title"] == "First"


def test_changed_data_and_other_tables_are_refused(folder: Path, tmp_path: Path) -> None:
    table(80).write_csv(tmp_path / "rows.csv")
    declare(tmp_path / "files", tmp_path / "rows.csv").write()
    table(90).write_csv(tmp_path / "rows.csv")
    with pytest.raises(ValueError, match="other contents: they have changed since it was started"):
        declare(tmp_path / "files", tmp_path / "rows.csv").write()
    table(80, seed=3).write_csv(tmp_path / "others.csv")
    with pytest.raises(ValueError, match="a run on other tables"):
        declare(tmp_path / "files", tmp_path / "others.csv").write()


def test_the_same_study_with_other_settings_shares_the_folder(folder: Path) -> None:
    declare(folder, table(80), strategies=["joint", "merge"], training={"passes": 1}).write()
    declare(folder, table(80), sample=0.5).write()
    declare(folder, table(80), seeds={"init": 1, "split": 2}).write()
    assert Study.open(folder).seeds["split"] == 2


def test_a_moved_table_with_the_same_contents_is_no_other_data(tmp_path: Path) -> None:
    table(80).write_csv(tmp_path / "rows.csv")
    declare(tmp_path / "run", tmp_path / "rows.csv").write()
    shutil.move(tmp_path / "rows.csv", tmp_path / "moved.csv")
    declare(tmp_path / "run", tmp_path / "moved.csv").write()


def test_a_run_of_the_first_version_is_taken_up(run_folder: Path, tmp_path: Path) -> None:
    """It had files of locks, and folders of cells without the number of a lease."""
    old = Path(shutil.copytree(run_folder, tmp_path / "old"))
    told = json.loads((old / "study.json").read_text("utf-8"))
    del told["plait"]
    (old / "study.json").write_text(json.dumps({**told, "format": 1}))
    shutil.rmtree(old / "leases")
    (old / "locks").mkdir()
    study = Study.open(old)
    assert str(study.leaderboard()) == str(Study.open(run_folder).leaderboard())
    joint = next(cell.key for place, cell in study.cells().items() if place.label == "joint")
    (old / "locks" / joint).touch()
    (old / "cells" / joint).rename(old / "cells" / f"{joint}.part")
    study.run()
    assert study.store.finished(joint)
    assert not list(old.glob("cells/*.part"))
    assert not (old / "locks").exists()
    assert json.loads((old / "study.json").read_text("utf-8"))["format"] == 2


def test_a_run_of_a_newer_version_says_which(folder: Path) -> None:
    edit(folder, format=9, plait="3.1.0")
    with pytest.raises(DamagedError) as error:
        Study.open(folder)
    message = str(error.value)
    assert "made by another version of plait, 3.1.0, which writes format 9" in message
    assert f"plait {plait.__version__} reads up to format 2: pip install --upgrade plait" in message
    with pytest.raises(DamagedError, match=r"3\.1\.0"):  # and it is not written over
        declare(folder, table(80)).write()


@pytest.mark.parametrize("told", ["[]", '{"format": "new"}', '{"format": true}', "{}"])
def test_what_is_no_study_is_told(folder: Path, told: str) -> None:
    (folder / "study.json").write_text(told)
    with pytest.raises(DamagedError, match=r"study\.json: not a study that plait has written"):
        Study.open(folder)


def test_opening_and_reading_write_nothing(run_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    shutil.rmtree(folder / "leases")
    before = sorted(folder.rglob("*"))
    study = Study.open(folder)
    assert len(study.leaderboard()) > 3
    assert sorted(folder.rglob("*")) == before


def test_a_run_with_a_setting_that_is_no_more_is_one_sentence(folder: Path) -> None:
    told = json.loads((folder / "study.json").read_text("utf-8"))
    training = {**told["training"], "rate": told["training"].pop("learning_rate")}
    edit(folder, training=training, plait="0.0.9")
    with pytest.raises(DamagedError) as error:
        Study.open(folder)
    message = str(error.value)
    assert f"written by plait 0.0.9, and plait {plait.__version__} cannot take it" in message
    assert "(it has no setting 'rate')" in message
    assert "plait compare" in message
    assert "\n" not in message
    edit(folder, training=told["training"] | {"learning_rate": 0.1}, strategies={"a": "joined"})
    with pytest.raises(DamagedError, match=r"0\.0\.9.*no strategy method 'joined'"):
        Study.open(folder)
    declare(folder, table(80)).write()  # the study given anew takes the folder over
    assert Study.open(folder).title == ""


@pytest.mark.parametrize(
    ("key", "value"),
    [("tables", None), ("declared", None), ("title", None), ("tables", [{}]), ("declared", [1])],
)
def test_a_study_that_lacks_something_is_one_sentence_and_is_not_written_over(
    folder: Path, key: str, value: object
) -> None:
    told = json.loads((folder / "study.json").read_text("utf-8"))
    if value is None:
        del told[key]
    (folder / "study.json").write_text(json.dumps(told if value is None else told | {key: value}))
    before = (folder / "study.json").read_bytes()
    for act in (declare(folder, table(80)).write, lambda: Study.open(folder)):
        with pytest.raises(DamagedError) as error:
            act()
        message = str(error.value)
        assert "study.json: not a whole study (" in message
        assert "restore the file, or compute it anew: plait compare" in message
        assert "\n" not in message
    assert (folder / "study.json").read_bytes() == before
    edit(folder, plait="0.0.9")
    with pytest.raises(DamagedError, match=r"written by plait 0\.0\.9, and plait"):
        declare(folder, table(80)).write()


def test_a_torn_study_is_told(folder: Path) -> None:
    whole = (folder / "study.json").read_text("utf-8")
    (folder / "study.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(DamagedError, match=r"study\.json: not readable as JSON"):
        declare(folder, table(80)).write()
