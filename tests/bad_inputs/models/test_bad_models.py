"""Whatever is wrong with a model's folder is one sentence: the file, the place, the fix."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from model_corpus import CASES, UNSEALED, Case

import plait
from plait.cli import main
from plait.comparing import Predictor, Progress, Study
from plait.weights.files import DamagedError, publish

ROWS = 120


def table() -> pl.DataFrame:
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, 2))
    return pl.DataFrame(
        {
            "x0": x[:, 0],
            "x1": x[:, 1],
            "colour": random.choice(["red", "green", "blue"], ROWS).tolist(),
            "click": (x[:, 0] > 0).astype(int),
            "price": x @ [1.0, 2.0] + random.normal(size=ROWS),
            "grade": np.array(["low", "mid", "top"])[np.digitize(x[:, 1], (-0.5, 0.5))].tolist(),
        }
    )


def compared(folder: Path, frame: pl.DataFrame, targets: list[str], encoder: dict) -> Study:
    study = plait.compare(
        frame, targets=targets, strategies=["joint"], encoder=encoder,
        training={"passes": 1}, seeds=1, out=folder, progress=Progress(),
    )  # fmt: skip
    assert study.failures() == []
    return study


@pytest.fixture(scope="session")
def good_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good model of each sort, and the run ``run`` they come from."""
    folder = tmp_path_factory.mktemp("models")
    encoder = {"trunk": {"mlp": {"width": 8, "depth": 1}}}
    study = compared(folder / "run", table(), ["click", "price", "grade"], encoder)
    labels = {"network": "joint", "bundle": "separate", "linear": "linear", "forest": "forest"}
    for name, label in {**labels, "boosting": "boosting"}.items():
        study.best(label).save(folder / name)
    own = table().select("x0", "x1", "click")
    foreign = compared(folder / "own", own, ["click"], {"module": "own_module:Mine"})
    foreign.best("joint").save(folder / "foreign")
    table().write_parquet(folder / "rows.parquet")
    return folder


def told(folder: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What ``plait predict`` says of a folder."""
    before = signal.getsignal(signal.SIGTERM)
    words = ["predict", str(folder), str(rows), "-o", str(folder.parent / "out.csv")]
    try:
        with pytest.raises(SystemExit) as left:
            main.run(words)
    finally:
        signal.signal(signal.SIGTERM, before)
    found = capsys.readouterr()
    assert left.value.code == 1
    assert found.out == ""
    assert not (folder.parent / "out.csv").exists()
    return found.err


def check(
    case: Case, good: Path, place: Path, capsys: pytest.CaptureFixture[str], *, seal: bool
) -> None:
    _, start, damage, parts = case
    folder = place / "model"
    shutil.copytree(good / start, folder)
    damage(folder)
    if seal:
        publish(folder)
    with pytest.raises(DamagedError) as error:
        Predictor.load(folder)
    message = str(error.value)
    for part in parts:
        assert part in message
    assert "\n" not in message
    assert len(message) < 1200
    said = told(folder, good / "rows.parquet", capsys)
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert "--debug" not in said


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_the_mistake_is_named(
    case: Case, good_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(case, good_models, tmp_path, capsys, seal=True)


@pytest.mark.parametrize("case", UNSEALED, ids=[case[0] for case in UNSEALED])
def test_what_was_changed_after_sealing_is_named(
    case: Case, good_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(case, good_models, tmp_path, capsys, seal=False)


@pytest.mark.parametrize("name", ["network", "bundle", "linear", "forest", "boosting", "foreign"])
def test_the_models_that_the_corpus_starts_from_are_good(good_models: Path, name: str) -> None:
    assert len(plait.load(good_models / name).predict(table())) == ROWS


def test_what_is_no_model_says_what_it_is(good_models: Path, tmp_path: Path) -> None:
    def message(folder: Path) -> str:
        with pytest.raises(DamagedError) as error:
            plait.load(folder)
        return str(error.value)

    assert "holds a run" in message(good_models / "run")
    assert "Study.open" in message(good_models / "run")
    assert "without its preprocessing" in message(good_models / "network" / "network")
    assert "is a file; give the folder" in message(good_models / "rows.parquet")
    assert "no such folder" in message(tmp_path / "nowhere")
    assert "no model.json" in message(tmp_path)
    (tmp_path / "heads.json").write_text("{}")
    assert "export for transformers" in message(tmp_path)


def test_a_folder_without_its_seal_is_read_and_checked(good_models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(good_models / "network", folder)
    (folder / "manifest.json").unlink()
    assert len(plait.load(folder).predict(table())) == ROWS


def test_the_corpus_is_large_enough() -> None:
    names = [case[0] for case in (*CASES, *UNSEALED)]
    assert len(set(names)) == len(names) >= 100
