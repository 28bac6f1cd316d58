"""``plait.compare`` and the command line given what they do not take: one clear error, no run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import plait
from plait.cli.main import run
from plait.testing.toys import toy_frame

FRUIT = toy_frame(rows=60)
ONE = {"targets": ["ripe"]}

CALLS: list[tuple[dict[str, Any], str]] = [
    ({}, "give either targets (columns to predict) or tasks"),
    ({"targets": ["ripe"], "tasks": ["ripe"]}, "give either targets"),
    ({"targets": []}, "no tasks are declared; name at least one target"),
    ({"targets": ["rip"]}, "no column 'rip' for task 'rip'; did you mean 'ripe'?"),
    ({"targets": 3}, "targets must be column names, or {column: kind}; got 3"),
    ({"tasks": {"ripe": "binray"}}, "no kind 'binray'; did you mean 'binary'?"),
    ({"tasks": {"ripe": {"knd": "binary"}}}, "no setting 'knd'; did you mean 'kind'?"),
    ({"tasks": {"ripe": 3}}, "task 'ripe' is a kind, a mapping or a TaskSpec; got 3"),
    ({**ONE, "id": "idd"}, "did you mean 'id'?"),
    ({**ONE, "intervals": "colur"}, "did you mean 'colour'?"),
    ({**ONE, "split": {"random": [0.8, 0.1, 0.1]}}, "split must be a SplitSpec"),
    ({**ONE, "strategies": ["jiont"]}, "no strategy method 'jiont'; did you mean 'joint'?"),
    ({**ONE, "strategies": ["joint", "joint"]}, "'joint' is given twice"),
    ({**ONE, "strategies": 3}, "strategies must be names of strategies, or {label: method}"),
    ({**ONE, "strategies": {"a": 3}}, "is its name, or {name: {settings}}; got 3"),
    ({**ONE, "strategies": {"a": {"joint": {"balncing": "equal"}}}}, "did you mean 'balancing'?"),
    ({**ONE, "strategies": {"a": {"joint": {"balancing": "pcgard"}}}}, "did you mean 'pcgrad'?"),
    ({**ONE, "strategies": {"separate": "joint"}}, "the label 'separate' is kept"),
    ({**ONE, "training": {"pases": 1}}, "training: no setting 'pases'; did you mean 'passes'?"),
    ({**ONE, "training": {"passes": 0}}, "training: passes must be at least 1; got 0"),
    ({**ONE, "training": {"passes": "8"}}, "training: passes must be a number; got '8'"),
    ({**ONE, "training": {"clip": float("nan")}}, "clip must be a number above 0; got nan"),
    ({**ONE, "training": {"mixing": "unifrm"}}, "training: mixing must be one of proportional, "),
    ({**ONE, "training": 3}, "training must be a mapping"),
    ({**ONE, "seeds": 0}, "seeds: init must be a whole number, at least 1; got 0"),
    ({**ONE, "seeds": "3"}, "seeds must be a whole number, or {'init': 3, 'split': 1}"),
    ({**ONE, "seeds": {"inti": 3}}, "seeds: no 'inti'; did you mean 'init'?"),
    ({**ONE, "encoder": "bag"}, "encoder must be a mapping"),
    ({**ONE, "encoder": {"txt": "bag"}}, "did you mean 'text'?"),
    ({**ONE, "encoder": {"trunk": {"mlp": {"widht": 3}}}}, "did you mean 'width'?"),
    ({**ONE, "tune": {"trails": 3}}, "tune: no setting 'trails'; did you mean 'trials'?"),
    ({**ONE, "tune": {"over": {"passse": [1]}}}, "no training setting 'passse'; did you mean 'pa"),
    ({**ONE, "tune": {"over": {"learning_rate": {"low": "a", "high": "b"}}}}, "0 < low < high"),
    ({**ONE, "sample": 0}, "sample must be a number above 0 and at most 1; got 0"),
    ({**ONE, "sample": 10}, "sample must be a number above 0 and at most 1; got 10"),
    ({**ONE, "time": -1}, "time must be seconds, above 0; got -1"),
    ({**ONE, "seeds": "3", "sample": 10, "time": 0}, "sample must"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "words"), CALLS, ids=lambda value: str(value)[:60])
def test_a_wrong_call_is_refused_before_any_training(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        plait.compare(FRUIT, **given, run=False).check()
    assert words in str(caught.value)


def test_several_wrong_arguments_are_told_together() -> None:
    with pytest.raises(ValueError, match="seeds must") as caught:
        plait.compare(FRUIT, targets=["ripe"], seeds="3", sample=10, time=0, run=False)
    assert len(str(caught.value).splitlines()) == 3


def test_a_run_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match=r"out: .*run is a file; give a folder"):
        plait.compare(FRUIT, targets=["ripe"], out=tmp_path / "run", run=False)


# -- the command line ------------------------------------------------------------------------------

LINES = [
    ("compare", 2, "Missing argument 'STUDY'"),
    ("comprae study.yaml", 2, "Did you mean 'compare'?"),
    ("compare study.yaml --ot run", 2, "No such option: --ot"),
    ("compare study.yaml --workers", 2, "requires an argument"),
    ("compare study.yaml --workers two", 2, "--workers"),
    ("compare study.yaml --workers -1", 2, "--workers"),
    ("compare study.yaml --sample 0%", 1, "a share lies above 0 and at most at 100%; got '0%'"),
    ("compare study.yaml --sample 120%", 1, "a share lies above 0 and at most at 100%; got '120%'"),
    ("compare study.yaml --sample ten", 1, "no share 'ten'; write 10% or 0.1"),
    ("compare study.yaml --time 5x", 1, "no time '5x'; write 90s, 30m or 1h30m"),
    ("compare study.yaml --time 0", 1, "a time must be above 0; got '0'"),
    ("compare study.yaml --shard 4/3", 1, "4/3"),
    ("compare study.yaml --shard half", 1, "half"),
    ("compare stduy.yaml", 1, "stduy.yaml: there is no such file; did you mean 'study.yaml'?"),
    ("compare fruit.csv", 1, "this is a table; plait init fruit.csv writes a study for it"),
    ("compare study.yaml --out fruit.csv", 1, "fruit.csv is a file; give a folder with --out"),
    ("compare typo.yaml", 1, "typo.yaml:2: tasks.ripe: no kind 'binray'; did you mean 'binary'?"),
    ("compare rows.yaml", 1, "no column 'rip'"),
    ("validate typo.yaml", 1, "typo.yaml:2: tasks.ripe: no kind 'binray'"),
    ("status nowhere", 1, "nowhere holds no run"),
    ("report nowhere", 1, "nowhere holds no run"),
    ("report nowhere --html --md", 2, "choose one of --html, --md, --latex and --csv"),
    ("methods --family balncing", 1, "no family 'balncing'; did you mean 'balancing'?"),
    ("methods --have bse", 1, "no need 'bse'; did you mean 'base'?"),
    ("train study.yaml", 2, "Missing option '--out'"),
    ("train study.yaml -o fruit.csv", 1, "fruit.csv exists and is not empty"),
    ("predict nowhere fruit.csv -o x.csv", 1, "nowhere"),
    ("predict nowhere fruit.csv -o x.xlsx", 1, "format '.xlsx'; end it in .parquet or .csv"),
    ("init nowhere.csv --targets a -o new.yaml --yes", 1, "nowhere.csv"),
    ("init fruit.csv --targets rip -o new.yaml --yes", 1, "did you mean 'ripe'?"),
    ("demo --out fruit.csv", 1, "fruit.csv is a file; give a folder with --out"),
    ("--frobnicate", 2, "No such option: --frobnicate"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calls")
    FRUIT.write_csv(folder / "fruit.csv")
    study = (
        "data: fruit.csv\ntasks: {ripe: binary}\nstrategies: {joint: {}}\ntraining: {passes: 1}\n"
    )
    (folder / "study.yaml").write_text(study)
    (folder / "typo.yaml").write_text(study.replace("binary", "binray"))
    (folder / "rows.yaml").write_text(study.replace("ripe", "rip"))
    return folder


@pytest.mark.parametrize(("line", "code", "words"), LINES, ids=[line for line, *_ in LINES])
def test_a_wrong_command_says_so_and_writes_nothing(
    line: str, code: int, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("signal.signal", lambda *given: None)
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as left:
        run(line.split())
    assert left.value.code == code
    said = capsys.readouterr()
    assert said.out == ""
    assert words in " ".join(said.err.split())
    assert "Traceback" not in said.err
    assert sorted(folder.rglob("*")) == before
