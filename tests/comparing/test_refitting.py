from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from studies import table

import plait
from plait.comparing import Study


@pytest.mark.parametrize("label", ["joint", "merged", "linear", "boosting", "separate"])
def test_the_model_is_trained_on_all_labelled_rows(
    run_folder: Path, tmp_path: Path, label: str
) -> None:
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    study = Study.open(folder)
    predictor = study.refit(tmp_path / "model", label)
    assert predictor.about["label"] == label
    rows = table(10).drop("click", "price", "grade")
    found = plait.load(tmp_path / "model").predict(rows)
    assert found.shape == (10, 6)
    assert not found.equals(study.best(label).predict(rows))


def test_what_validation_chose_is_kept(study: Study, tmp_path: Path) -> None:
    merged = study.refit(tmp_path / "merged", "merged")
    first = next(cell for place, cell in study.cells().items() if place.label == "merged")
    scale = study.store.read(first.key, "model/model.json")["evidence"]["scale"]
    told = merged.about["strategy"]["merge"]["task_arithmetic"]["scale"]
    assert told == scale


def test_an_unknown_label_is_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no strategy 'joined'; did you mean 'joint'"):
        study.refit(tmp_path, "joined")
    with pytest.raises(ValueError, match="no strategy 'joined'; did you mean 'joint'"):
        study.best("joined")
