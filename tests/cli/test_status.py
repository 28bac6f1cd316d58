"""``plait status`` and shares of a study, as a user on a cluster meets them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_main import run

from plait.comparing import Study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    x = random.normal(size=(80, 2))
    click = np.where(x[:, 0] > 0, "yes", "no")
    pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "click": click, "price": x[:, 1]}).write_csv(
        tmp_path / "rows.csv"
    )
    path = tmp_path / "study.yaml"
    path.write_text(
        "data: {table: rows.csv}\n"
        "tasks: {click: binary, price: real}\n"
        "encoder: {trunk: {mlp: {width: 4, depth: 1}}}\n"
        "training: {passes: 1}\n"
        "strategies: {joint: {}}\n"
        "seeds: {init: 1}\n"
    )
    return path


def test_every_state_of_a_cell_is_told(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from plait.cli.compare import prepare

    folder = tmp_path / "run"
    made = prepare(study, folder)
    made.write()
    made.store.tidy()
    first, second, third, *_ = made.wanted()
    lease = made.store.leases.claim(first.key, "separate")
    made.store.fail(second.key, "RuntimeError: no \x1b[31mluck")
    gone = made.store.leases.claim(third.key)
    assert gone is not None
    gone.end("died")
    code, out, err = run("status", str(folder), capsys=capsys)
    assert code == 0
    total = len(made.wanted())
    assert f"{total} cells, 0 done, 1 running, 1 failed, {total - 2} waiting." in out
    assert "separate: running for" in out
    assert "process" in out
    assert "failed: RuntimeError: no luck" in err
    code, out, _ = run("status", str(folder), "--json", capsys=capsys)
    told = json.loads(out)
    assert (told["total"], told["running"], told["failed"]) == (total, 1, 1)
    cells = {cell["key"]: cell for cell in told["cells"]}
    assert cells[first.key]["owner"]
    assert cells[first.key]["seconds"] >= 0
    assert cells[first.key]["silent"] >= 0
    assert cells[third.key]["state"] == "waiting"
    assert cells[third.key]["tries"] == 1
    assert lease is not None
    assert lease.held()  # looking changes nothing


def test_errors_are_one_json_document_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run("status", str(tmp_path), "--json", capsys=capsys)
    assert code == 1
    assert "holds no run" in json.loads(out)["error"]
    assert "holds no run" in err


def test_wrong_shards_times_and_clusters(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.parent)
    assert "no shard '5/3'" in run("compare", str(study), "--shard", "5/3", capsys=capsys)[2]
    assert "no time" in run("compare", str(study), "--cell-time", "soon", capsys=capsys)[2]
    code, _, err = run("compare", str(study), "--on", "spark", capsys=capsys)
    assert code == 1
    assert "the one way there is is 'ray'" in err


def test_a_run_that_was_killed_while_it_began_goes_on(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from plait.cli.compare import run_folder

    folder = study.parent / "run"
    (folder / "cache").mkdir(parents=True)
    (folder / ".host-1-2-3.json.tmp").touch()
    assert run_folder(study, folder) == folder


@pytest.mark.slow
def test_shards_hand_over_and_the_last_reports(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = study.parent / "run"
    words = ("compare", str(study), "--out", str(folder), "--json")
    code, out, err = run(*words, "--shard", "1/2", capsys=capsys)
    assert code == 0, err
    told = json.loads(out)
    assert told["waiting"] > 0
    assert not (folder / "report.html").exists()
    code, out, err = run(*words, "--shard", "2/2", capsys=capsys)
    assert code == 0, err
    told = json.loads(out)
    assert told["unfinished"] == 0
    assert {row["strategy"] for row in told["standings"]} >= {"separate", "joint", "prior"}
    assert (folder / "report.html").exists()
    assert Study.open(folder).failures() == []
