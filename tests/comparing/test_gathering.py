from __future__ import annotations

import json

from plait.comparing.gathering import curves, plain_recipe, read_events
from plait.comparing.study import Study
from plait.recipes.document import parse


def test_events_become_series_by_kind_and_task() -> None:
    events = [
        {"event": "step", "step": 0, "losses": {"a": 1.0}, "weights": {"a": 0.5}},
        {"event": "step", "step": 2, "losses": {"a": 0.5, "b": None}},
        {"event": "valid", "step": 2, "pass": 1, "losses": {"a": 0.7}},
        {"event": "conflict", "step": 2, "cosine": -0.1, "share": 0.5},
        {"event": "dropped", "step": 2, "task": "a"},
    ]
    found = read_events([json.dumps(event) for event in events])
    assert found == {
        "loss": {"a": {0: 1.0, 2: 0.5}, "b": {2: None}},
        "weight": {"a": {0: 0.5}},
        "valid": {"a": {2: 0.7}},
        "conflict": {"cosine": {2: -0.1}, "share": {2: 0.5}},
    }


def test_curves_of_networks_trained_apart_stand_together(study: Study) -> None:
    cells = {place: cell for place, cell in study.cells().items() if place.label == "separate"}
    found = [curve for curve in curves(study, cells) if curve.kind == "valid"]
    assert len(found) == 2  # one for each seed
    assert set(found[0].series) == {"click", "price", "grade"}
    assert all(len(values) == len(found[0].steps) for values in found[0].series.values())


def test_a_study_that_had_no_file_is_told_in_yaml(study: Study) -> None:
    told = parse(plain_recipe(study), "study.yaml").value
    assert told["title"] == "A small study"
    assert told["training"]["passes"] == 2
    assert told["seeds"] == {"init": 2, "split": 1}
    assert told["strategies"]["adapted"] == {"adapt": {"lora": {"rank": 2}}}
    assert "tune" not in told
