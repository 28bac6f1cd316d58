from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from exports import TARGETS, columns_of, compared, fresh_rows, table

import plait
from plait.comparing import Predictor, Study
from plait.exporting import ExportError, export_onnx, export_torch, onnx_file
from plait.testing.toys import toy_frame

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


def inputs_of(frame: pl.DataFrame) -> dict[str, np.ndarray]:
    """A table as a program without plait feeds it."""
    found = {}
    for name in frame.columns:
        column = frame[name]
        if column.dtype == pl.String:
            found[name] = np.array(column.fill_null("").to_list(), dtype=object)
        else:
            found[name] = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return found


def run(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def same(predictor: Predictor, path: Path, rows: pl.DataFrame) -> None:
    ours, theirs = predictor.predict(rows), run(path, inputs_of(rows))
    assert set(theirs) == set(predictor.tasks)
    for task in predictor.tasks:
        mine = columns_of(ours, task)
        assert theirs[task].shape == mine.shape
        assert theirs[task].dtype == np.float32
        np.testing.assert_allclose(theirs[task], mine, rtol=1e-5, atol=1e-5)


LABELS = ["joint", "experts", "prior", "linear", "forest", "boosting"]
SLOW = [pytest.param(label, marks=pytest.mark.slow) for label in ("adapted", "separate")]


@pytest.mark.parametrize("label", [*LABELS, *SLOW])
def test_onnxruntime_predicts_what_plait_predicts(
    exported: Study, tmp_path: Path, label: str
) -> None:
    rows = fresh_rows()
    predictor, path = exported.best(label), tmp_path / "model.onnx"
    told = export_onnx(predictor, path, rows=rows)
    assert told["real"]
    assert told["checked"] == len(rows)
    assert told["difference"] <= 1e-5
    same(predictor, path, rows)
    same(predictor, path, rows.head(1))
    same(predictor, path, pl.concat([rows] * 3))


def test_the_file_says_what_goes_in_and_out(exported: Study, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(exported.best("joint"), path)
    model = onnx.load(path)
    told = json.loads({each.key: each.value for each in model.metadata_props}["plait"])
    assert told["inputs"] == ["x0", "x1", "x2", "x3", "colour"]
    assert told["outputs"]["grade"]["classes"] == ["low", "mid", "top"]
    assert [each.name for each in model.graph.output] == TARGETS
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_many_tasks_of_one_column(tmp_path: Path) -> None:
    """Pools with the task's number, and many small networks side by side."""
    frame = table(200).select("x0", "x1", "colour", "price").drop_nulls("price")
    frame = frame.with_columns(school=pl.Series([f"s{i % 5}" for i in range(len(frame))]))
    tasks = {"exam": {"by": "school", "target": "price", "kind": "real"}}
    study = plait.compare(
        frame, tasks=tasks, strategies=["joint"], encoder={"trunk": {"mlp": {"width": 4}}},
        training={"passes": 1}, seeds=1, out=tmp_path / "run",
        progress=plait.comparing.Progress(),
    )  # fmt: skip
    rows = frame.drop("price").head(20)
    for label in ("separate", "linear_pooled", "boosting_pooled", "forest_pooled"):
        predictor, path = study.best(label), tmp_path / "model.onnx"
        export_onnx(predictor, path, rows=rows)
        found = run(path, inputs_of(rows.drop("school")))
        ours = predictor.predict(rows)["exam"].to_numpy()
        mine = [found[f"exam[{who}]"][row] for row, who in enumerate(rows["school"])]
        np.testing.assert_allclose(mine, ours, rtol=1e-5, atol=1e-5)


def test_images_and_vectors_are_read_raw(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (80, 1, 8, 8)).astype(np.uint8)
    data = {"picture": images, "v": random.normal(size=(80, 3)), "y": images.mean((1, 2, 3))}
    study = compared(data, tmp_path / "run", ["y"], strategies=["joint"])
    rows = {"picture": images[:9], "v": data["v"][:9]}
    for label in ("joint", "forest"):
        predictor, path = study.best(label), tmp_path / "model.onnx"
        export_onnx(predictor, path, rows=rows)
        given = {"picture": images[:9].astype(np.float32), "v": data["v"][:9].astype(np.float32)}
        found = run(path, given)["y"]
        np.testing.assert_allclose(found, predictor.predict(rows)["y"], rtol=1e-5, atol=1e-5)


def test_texts_are_refused_or_taken_as_tokens(on_text: Study, tmp_path: Path, texts: Path) -> None:
    rows = pl.read_parquet(texts / "rows.parquet").drop("a", "b").head(12)
    predictor, path = on_text.best("adapted"), tmp_path / "model.onnx"
    with pytest.raises(ExportError, match=r"text 'text' .* --tokens"):
        export_onnx(predictor, path, rows=rows)
    assert not path.exists()
    export_onnx(predictor, path, rows=rows, tokens=True)
    ours = predictor.predict(rows)
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(texts / "model" / "tokenizer.json"))
    tokenizer.enable_padding()
    coded = tokenizer.encode_batch(rows["text"].to_list())
    ids = np.array([each.ids for each in coded])
    mask = np.array([each.attention_mask for each in coded])
    found = run(path, {"text.input_ids": ids, "text.attention_mask": mask})
    for task in ("a", "b"):
        np.testing.assert_allclose(found[task], ours[task], rtol=1e-5, atol=1e-5)


def test_baselines_on_texts_say_what_serves_them(on_text: Study, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="counts the tokens"):
        export_onnx(on_text.best("linear"), tmp_path / "m.onnx", tokens=True)


def test_bags_of_words_run_on_token_numbers(tmp_path: Path) -> None:
    frame = toy_frame(120).select("note", "x0", "ripe", "price").with_row_index("row")
    frame = frame.select(pl.format("{} no {}", "note", "row").alias("note"), "x0", "ripe", "price")
    study = compared(frame, tmp_path / "run", ["ripe", "price"], strategies=["joint"])
    told = export_onnx(study.best("joint"), tmp_path / "m.onnx", rows=frame, tokens=True)
    assert told["inputs"] == ["x0", "note.tokens"]


def test_lists_of_items_are_read_as_text(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    bought = [random.choice(["tea", "milk", "rye"], random.integers(0, 4)) for _ in range(90)]
    frame = pl.DataFrame(
        {
            "bought": pl.Series([each.tolist() for each in bought], dtype=pl.List(pl.String)),
            "y": [float(len(each)) + random.normal() / 10 for each in bought],
        }
    )
    study = compared(frame, tmp_path / "run", {"y": "real"}, strategies=["joint"])
    rows = pl.DataFrame({"bought": [["tea", "gin"], ["rye"], ["gin"], ["milk", "tea"]]})
    predictor, path = study.best("joint"), tmp_path / "m.onnx"
    export_onnx(predictor, path, rows=rows)
    given = np.array([["tea", "gin"], ["rye", ""], ["gin", ""], ["milk", "tea"]], dtype=object)
    ours = predictor.predict(rows)["y"]
    np.testing.assert_allclose(run(path, {"bought": given})["y"], ours, rtol=1e-5, atol=1e-5)
    export_torch(predictor, tmp_path / "m.pt2", rows=rows)


def test_names_that_meet_are_told_apart(tmp_path: Path) -> None:
    """A task may be called as a column of another table is, or like nodes of the file."""
    frame = table(80).select("x0", "x1", "ripe").rename({"x1": "plait/1"})
    study = compared(frame, tmp_path / "run", ["ripe"], strategies=["joint"])
    with pytest.raises(ExportError, match="rename it"):
        export_onnx(study.best("joint"), tmp_path / "m.onnx")


def test_a_file_that_differs_is_not_written(
    exported: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = onnx_file._run

    def off(*given):
        found = true(*given)
        return {**found, "price": found["price"] + 0.01}

    monkeypatch.setattr(onnx_file, "_run", off)
    with pytest.raises(ExportError, match=r"'price' on row 39 .* nothing was written"):
        export_onnx(exported.best("joint"), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_missing_libraries_are_named(
    exported: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"onnx, .* pip install 'plait\[export\]'"):
        export_onnx(exported.best("prior"), tmp_path / "m.onnx")
