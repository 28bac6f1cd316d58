"""``plait export`` as a user meets it."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from plait.cli import main

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as left:
            main.run(list(words))
    finally:
        signal.signal(signal.SIGTERM, before)
    found = capsys.readouterr()
    return int(left.value.code or 0), found.out, found.err


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose chosen model is a plain baseline, and its table."""
    folder = tmp_path_factory.mktemp("export")
    random = np.random.default_rng(0)
    x = random.normal(size=(160, 2))
    price = x @ [1.0, 2.0] + random.normal(size=160) / 10
    frame = pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "price": price})
    frame.write_parquet(folder / "rows.parquet")
    (folder / "study.yaml").write_text(
        "data: {table: rows.parquet}\ntasks: {price: real}\ntraining: {passes: 1}\n"
        "encoder: {trunk: {mlp: {width: 4, depth: 1}}}\nstrategies: {joint: {}}\n"
        "seeds: {init: 1}\n"
    )
    with pytest.raises(SystemExit) as left:
        main.run(["compare", str(folder / "study.yaml"), "--out", str(folder / "run"), "--json"])
    assert not left.value.code
    return folder


def test_a_run_is_exported_and_checked_on_its_own_rows(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place / "out" / "model.onnx"
    code, out, err = run("export", str(place / "run"), "--onnx", str(path), capsys=capsys)
    assert (code, err) == (0, "")
    assert "1 task; with onnxruntime the predictions on 160 rows differ by at most" in out
    session = onnxruntime.InferenceSession(path)
    assert [each.name for each in session.get_inputs()] == ["a", "b"]


def test_a_model_is_checked_on_made_up_rows_or_those_given(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, rows = place / "model", place / "rows.parquet"
    words = ("train", str(place / "run"), "--strategy", "linear", "-o", str(model))
    assert run(*words, capsys=capsys)[0] == 0
    words = ("export", str(model), "--onnx", str(place / "m.onnx"))
    assert "on 64 made-up rows" in run(*words, capsys=capsys)[1]
    assert "on 160 rows" in run(*words, "--rows", str(rows), capsys=capsys)[1]
    code, _, err = run(*words, "--rows", str(place / "rows.parquit"), capsys=capsys)
    assert code == 1
    assert "did you mean 'rows.parquet'" in err


def test_mistakes_are_told_before_anything_is_read(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(place / "nowhere")
    assert "--onnx FILE, --torch FILE or --hf" in run("export", model, capsys=capsys)[2]
    said = run("export", model, "--onnx", "m.pb", capsys=capsys)[2]
    assert said == "error: m.pb: give it the ending .onnx\n"
    said = run("export", model, "--torch", "m.pt", capsys=capsys)[2]
    assert "m.pt: give it the ending .pt2" in said
    said = run("export", model, "--onnx", "m.onnx", capsys=capsys)[2]
    assert "no such folder" in said


def test_what_cannot_be_exported_is_one_sentence(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run("export", str(place / "run"), "--hf", str(place / "hf"), capsys=capsys)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert not (place / "hf").exists()
