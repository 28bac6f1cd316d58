from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from studies import ENCODER, school_dataset, schools, table

import plait
from plait.comparing import Progress, Study
from plait.data import DataError
from plait.weights.files import DamagedError

ROWS = table(20, seed=3).drop("click", "price", "grade")


def test_predictions_are_in_the_users_words_and_units(study: Study) -> None:
    found = study.best("joint").predict(ROWS)
    assert found.columns == ["click", "price", "grade", "grade.low", "grade.mid", "grade.top"]
    assert found["click"].is_between(0, 1).all()
    assert found["price"].mean() == pytest.approx(50, abs=25)
    assert set(found["grade"]) <= {"low", "mid", "top"}
    shares = found.select("grade.low", "grade.mid", "grade.top")
    assert shares.sum_horizontal().to_list() == pytest.approx([1] * 20, abs=1e-5)
    likeliest = [max(row, key=row.get).removeprefix("grade.") for row in shares.to_dicts()]
    assert found["grade"].to_list() == likeliest


LOAD = """
import sys, polars, plait
for name in sys.argv[2:]:
    found = plait.load(f"{sys.argv[1]}/{name}").predict(polars.read_parquet(f"{sys.argv[1]}/rows"))
    found.write_parquet(f"{sys.argv[1]}/{name}.found")
"""


def test_every_model_predicts_the_same_from_another_folder_and_process(
    study: Study, tmp_path: Path
) -> None:
    ROWS.write_parquet(tmp_path / "rows")
    here = {}
    for label in study.strategies:
        predictor = study.best(label)
        here[label] = predictor.predict(ROWS)
        predictor.save(tmp_path / label)
    command = [sys.executable, "-c", LOAD, str(tmp_path), *here]
    subprocess.run(command, check=True)
    for label, found in here.items():
        assert_frame_equal(found, pl.read_parquet(tmp_path / f"{label}.found"), check_exact=True)
    assert not [p for p in tmp_path.rglob("*") if p.suffix in {".pkl", ".pt", ".pickle", ".joblib"}]


def test_a_saved_model_says_what_it_is(study: Study, tmp_path: Path) -> None:
    predictor = study.best("merged")
    predictor.about["title"] = "<script> | *bold*"
    predictor.save(tmp_path / "model")
    readme = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert "<script>" not in readme
    assert "| click | binary |" in readme
    about = json.loads((tmp_path / "model" / "about.json").read_text("utf-8"))
    assert about["strategy"] == "merge"
    assert plait.load(tmp_path / "model").about["label"] == "merged"
    with pytest.raises(DamagedError, match=r"a whole model, read by plait\.load"):
        plait.Network.from_pretrained(tmp_path / "model")


def test_saving_again_replaces_the_model_and_nothing_else(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    study.best("separate").save(folder)
    study.best("prior").save(folder)
    assert plait.load(folder).predict(ROWS)["click"].n_unique() == 1
    assert not (folder / "members").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="not empty and holds no model"):
        study.best("prior").save(other)


def test_damaged_models_are_refused(study: Study, tmp_path: Path) -> None:
    folder = study.best("linear").save(tmp_path / "model")
    (folder / "linear.safetensors").write_bytes(b"")
    with pytest.raises(DamagedError, match=r"linear\.safetensors \(altered"):
        plait.load(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DamagedError, match=r"no model\.json"):
        plait.load(tmp_path / "empty")
    with pytest.raises(DamagedError, match="no such folder"):
        plait.load(tmp_path / "nowhere")


def test_missing_columns_are_named(study: Study) -> None:
    with pytest.raises(DataError, match="no column 'x2'"):
        study.best("joint").predict(ROWS.drop("x2"))


def test_every_missing_column_has_its_nearest_name(study: Study) -> None:
    rows = ROWS.rename({"x2": "x_2", "colour": "color"})
    with pytest.raises(
        DataError, match=r"no column 'colour'; did you mean 'color'\?; no 'x2'; did"
    ):
        study.best("joint").predict(rows)


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        (
            "x0",
            pl.Series([[1.0, 2.0]] * 20),
            "'x0' is of type List.* where the model reads numbers",
        ),
        ("x0", pl.Series(["1", "abc"] * 10), "row 2: 'x0' is 'abc', which is no number"),
        ("x0", pl.Series([float("inf")] * 20), "row 1: 'x0' is inf, which is infinite"),
        ("colour", pl.Series([["red"]] * 20), "'colour' is of type List.* reads categories"),
        ("colour", pl.Series([b"\xff"] * 20), "'colour' is of type Binary .* reads categories"),
    ],
)
def test_types_that_do_not_fit_are_named(
    study: Study, column: str, values: pl.Series, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        study.best("joint").predict(ROWS.with_columns(values.alias(column)))


def test_what_is_unknown_or_too_much_is_no_mistake(study: Study) -> None:
    more = ROWS.with_columns(pl.lit(1).alias("more"), pl.lit("mauve").alias("colour"))
    assert study.best("joint").predict(more).null_count().sum_horizontal().item() == 0
    with pytest.raises(DataError, match="no rows"):
        study.best("joint").predict(ROWS.head(0))


def test_tasks_of_a_column_give_one_column_and_unseen_values_are_refused(tmp_path: Path) -> None:
    study = plait.compare(
        school_dataset(), strategies=["joint"], encoder=ENCODER, training={"passes": 1},
        seeds=1, out=tmp_path, progress=Progress(),
    )  # fmt: skip
    assert study.failures() == []
    assert {"forest_pooled", "linear_pooled"} <= study.strategies.keys()
    frame = schools().drop("score", "split")
    for label in study.strategies:
        found = study.best(label).predict(frame)
        assert found.columns == ["exam"]
        assert found["exam"].null_count() == 0
    strange = frame.with_columns(
        pl.when(pl.int_range(len(frame)) == 7)
        .then(pl.lit("s9"))
        .otherwise("school")
        .alias("school")
    )
    with pytest.raises(DataError, match=r"row 8.*no task for school 's9'"):
        study.best("joint").predict(strange)


def test_many_rows_are_predicted_as_few(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = study.best("experts").predict(ROWS)
    monkeypatch.setattr("plait.comparing.predictor.ROWS", 7)
    assert_frame_equal(whole, study.best("experts").predict(ROWS), abs_tol=1e-5)
