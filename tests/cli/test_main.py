"""The command line as a user meets it: exit codes, one clear message, nothing heavy for help."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from plait.cli import main

COMMAND = [sys.executable, "-m", "plait.cli.main"]


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, what was printed, and what went to the error stream."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as left:
            main.run(list(words))
    finally:
        signal.signal(signal.SIGTERM, before)
    code = left.value.code
    found = capsys.readouterr()
    return (int(code) if code is not None else 0), found.out, found.err


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study of two tasks, with a name from data that would clear the screen."""
    folder = tmp_path_factory.mktemp("study")
    random = np.random.default_rng(0)
    x = random.normal(size=(240, 3))
    pl.DataFrame(
        {
            "key": [f"=k{i}" for i in range(240)],
            "a": x[:, 0],
            "b\x1b[2J": x[:, 1],
            "c": x[:, 2],
            "bought": np.where(x[:, 0] + x[:, 1] > 0, "yes", "no"),
            "price": x @ [1.0, 2.0, 3.0] + random.normal(size=240) * 0.1,
        }
    ).write_parquet(folder / "rows.parquet")
    path = folder / "study.yaml"
    path.write_text(
        "data: {table: rows.parquet, id: key}\n"
        "tasks: {bought: binary, price: real}\n"
        "encoder: {trunk: {mlp: {width: 8, depth: 1}}}\n"
        "training: {passes: 2, batch: 64}\n"
        "strategies: {joint: {}}\n"
        "seeds: {init: 1}\n"
    )
    return path


@pytest.fixture(scope="module")
def finished(study: Path) -> Path:
    """The folder of its run."""
    folder = study.parent / "run"
    with pytest.raises(SystemExit) as left:
        main.run(["compare", str(study), "--out", str(folder), "--json"])
    assert left.value.code in {0, None}
    return folder


def test_help_loads_nothing_heavy() -> None:
    found = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "plait.cli.main", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = {line.rpartition("|")[2].strip() for line in found.stderr.splitlines()}
    for heavy in ("torch", "numpy", "polars", "pydantic", "ruamel.yaml", "sklearn", "matplotlib"):
        assert heavy not in loaded
    assert "compare" in found.stdout


def test_listing_methods_loads_no_torch() -> None:
    words = "import sys; from plait.cli.methods import methods; methods(None, None, True);"
    words += "assert 'torch' not in sys.modules"
    found = subprocess.run(
        [sys.executable, "-c", words], capture_output=True, text=True, check=True
    )
    rows = json.loads(found.stdout)
    known = {row["key"]: row for row in rows}
    assert known["balancing.pcgrad"]["paper"]["year"] == 2020
    assert isinstance(known["merging.task_arithmetic"]["needs"], list)


def test_methods_are_filtered(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("methods", "--family", "balancing", "--json", capsys=capsys)
    assert code == 0
    assert {row["key"].partition(".")[0] for row in json.loads(out)} == {"balancing"}
    _, out, _ = run("methods", "--have", "labelled", capsys=capsys)
    assert "strategy.joint" in out
    assert "merging.task_arithmetic" not in out
    code, _, err = run("methods", "--family", "balancnig", capsys=capsys)
    assert code == 1
    assert "did you mean 'balancing'" in err
    code, _, err = run("methods", "--have", "bas", capsys=capsys)
    assert code == 1
    assert "did you mean 'base'" in err


def test_version_and_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version", capsys=capsys)[:2] == (0, "plait 0.1.0\n")
    assert run("compar", capsys=capsys)[0] == 2
    assert run("compare", capsys=capsys)[0] == 2
    assert run("compare", "x.yaml", "--workers", "0", capsys=capsys)[0] == 2


def test_every_mistake_is_a_line_and_there_is_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("data: {tabel: x.csv}\ntasks: {a: binray}\nstrategies: {a: jiont}\n")
    code, out, err = run("validate", str(path), capsys=capsys)
    assert code == 1
    assert out == ""
    assert [line.partition(": ")[2].partition(": ")[0] for line in err.splitlines()] == [
        f"{path}:{line}" for line in (1, 2, 3)
    ]
    assert "Traceback" not in err


def test_a_missing_file_and_a_missing_column(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run("compare", str(tmp_path / "no.yaml"), capsys=capsys)
    assert code == 1
    assert "no such file" in err
    wrong = study.parent / "wrong.yaml"
    wrong.write_text(study.read_text().replace("price", "prize"))
    code, _, err = run("validate", str(wrong), capsys=capsys)
    assert code == 1
    assert "did you mean 'price'" in err


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        main.run(["compare", str(tmp_path / "no.yaml"), "--debug"])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_unexpected_errors_say_how_to_see_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("plait.method.methods", broken)
    code, _, err = run("methods", capsys=capsys)
    assert code == 1
    assert err == "error: KeyError: x; run again with --debug to see where\n"


def test_validate_tells_what_the_data_are(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run("validate", str(study), capsys=capsys)
    assert code == 0, err
    assert "\x1b" not in out + err
    assert "bought" in out
    assert "is fine: 2 tasks, 1 strategies" in out
    code, out, _ = run("validate", str(study), "--json", capsys=capsys)
    assert [row["name"] for row in json.loads(out)["tasks"]] == ["bought", "price"]


def test_dry_run_trains_nothing(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = study.parent / "never"
    code, out, _ = run("compare", str(study), "--out", str(folder), "--dry-run", capsys=capsys)
    assert code == 0
    assert "joint" in out
    assert "cells" in out
    assert re.search(r"A worker holds about [\d.]+ [MG]B; [\d.]+ [MGT]B are free on the disk", out)
    assert not folder.exists()


def test_a_folder_with_other_things_is_not_used(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run("compare", str(study), "--out", str(study.parent), capsys=capsys)
    assert code == 1
    assert "is not empty and holds no run" in err


def test_wrong_times_and_shares(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no time" in run("compare", str(study), "--time", "soon", capsys=capsys)[2]
    assert "share" in run("compare", str(study), "--sample", "200%", capsys=capsys)[2]


def test_baselines_alone_are_no_success(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild, given = study.parent / "wild.yaml", study.read_text()
    wild.write_text(given.replace("{passes: 2", "{passes: 12, learning_rate: 1.0e+30"))
    code, out, err = run("compare", str(wild), "--out", str(tmp_path / "run"), capsys=capsys)
    assert code == 1
    assert "not finite in 10 of its steps in a row" in out + err
    assert "Report:" in out


def test_a_finished_run_is_shown_again_and_reported(
    study: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run("compare", str(study), "--out", str(finished), capsys=capsys)
    assert code == 0, err
    assert "separate" in out
    assert f"Report: {finished / 'report.html'}" in out
    assert "\x1b" not in out
    assert (finished / "study.yaml").read_text() == study.read_text()
    assert (finished / "report.html").stat().st_size < 2_000_000
    code, out, _ = run("status", str(finished), capsys=capsys)
    assert code == 0
    assert "0 failed" in out


@pytest.mark.parametrize(("flag", "words"), [("--md", "|"), ("--latex", "\\begin"), ("--csv", ",")])
def test_reports_in_other_formats(
    finished: Path, flag: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run("report", str(finished), flag, capsys=capsys)
    assert code == 0
    assert words in out
    target = finished.parent / f"report{flag}.txt"
    code, _, _ = run("report", str(finished), flag, "-o", str(target), capsys=capsys)
    assert code == 0
    assert words in target.read_text()


def test_two_formats_at_once_are_wrong_usage(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("report", str(finished), "--md", "--csv", capsys=capsys)[0] == 2
    code, _, err = run("report", str(finished.parent), capsys=capsys)
    assert code == 1
    assert "holds no run" in err


def test_json_results(study: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("compare", str(study), "--out", str(finished), "--json", capsys=capsys)
    told = json.loads(out)
    assert code == 0
    assert {row["strategy"] for row in told["standings"]} >= {"separate", "joint", "prior"}
    assert told["answer"]["headline"]
    assert told["run"] == str(finished)


def test_train_and_predict_carry_ids(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    code, out, err = run(
        "train", str(finished), "--strategy", "joint", "-o", str(model), capsys=capsys
    )
    assert code == 0, err
    assert "all labelled rows" in out
    rows = finished.parent / "rows.parquet"
    found = tmp_path / "out.csv"
    code, _, err = run("predict", str(model), str(rows), "-o", str(found), capsys=capsys)
    assert code == 0, err
    frame = pl.read_csv(found)
    assert frame.columns == ["key", "bought", "price"]
    assert frame["key"][0] == "'=k0"
    assert len(frame) == 240
    assert frame["bought"].is_between(0, 1).all()


def test_train_refuses_what_is_there(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run("train", str(finished), "-o", str(finished), capsys=capsys)
    assert code == 1
    assert "is not empty" in err
    code, _, err = run(
        "train", str(finished), "--strategy", "jiont", "-o", str(tmp_path / "m"), capsys=capsys
    )
    assert code == 1
    assert "did you mean 'joint'" in err


def test_one_strategy_of_a_study_that_was_not_run(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run("train", str(study), "--strategy", "joint", "-o", "m", capsys=capsys)
    assert code == 0, err
    assert (tmp_path / "m" / "model.json").exists()
    assert not (tmp_path / "runs").exists()


def test_predict_refuses_before_it_computes(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = str(finished.parent / "rows.parquet")
    code, _, err = run(
        "predict", str(finished), rows, "-o", str(tmp_path / "x.xlsx"), capsys=capsys
    )
    assert code == 1
    assert "unknown format" in err
    words = ("predict", str(tmp_path), rows, "-o", str(tmp_path / "x.csv"))
    assert run(*words, capsys=capsys)[0] == 1
    words = ("predict", str(finished), rows, "--id", "kye", "-o", str(tmp_path / "x.csv"))
    assert "did you mean 'key'" in run(*words, capsys=capsys)[2]


def test_sigterm_leaves_with_143(study: Path, tmp_path: Path) -> None:
    slow = study.parent / "slow.yaml"
    slow.write_text(study.read_text().replace("passes: 2", "passes: 100000, patience: null"))
    process = subprocess.Popen(
        [*COMMAND, "compare", str(slow), "--out", str(tmp_path / "run")],
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("run/cells/*.part")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 143
