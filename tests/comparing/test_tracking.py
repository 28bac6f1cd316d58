from __future__ import annotations

import pytest
from studies import plan
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from plait.comparing.study import Study
from plait.comparing.tracking import track
from plait.training.observers import read_events


def scalars(folder):
    found = EventAccumulator(str(folder)).Reload()
    return {tag: found.Scalars(tag) for tag in found.Tags()["scalars"]}


def study(folder, **strategies) -> Study:
    made = Study(plan(), strategies, folder=folder, seeds=1, baselines=False)
    return made.run()


def test_a_study_is_tracked_cell_by_cell_and_its_figures(tmp_path):
    run, logs = tmp_path / "run", tmp_path / "logs"
    first = study(run, separate="separate", joint={"joint": {"balancing": "pcgrad"}})
    track(first, {"tensorboard": logs})
    assert {folder.name for folder in logs.iterdir()} == {
        "separate", "joint", "separate seed 0", "joint seed 0",
    }  # fmt: skip
    curves = scalars(logs / "joint seed 0")
    (cell,) = [cell for place, cell in first.cells().items() if place.label == "joint"]
    events = read_events(run / "cells" / cell.key / "events.jsonl")
    valid = [event for event in events if event["event"] == "valid"]
    assert [(one.step, one.value) for one in curves["valid/price"]] == [
        (event["step"], pytest.approx(event["losses"]["price"], rel=1e-5)) for event in valid
    ]
    assert {"loss/click", "weight/grade", "conflict/cosine"} <= curves.keys()
    board = scalars(logs / "joint")
    (row,) = [row for row in first.results.standings if row.strategy == "joint"]
    assert board["gain"][0].value == pytest.approx(row.gain.value, rel=1e-5)
    assert {"test/price/rmse", "test/click/auroc", "cost/parameters"} <= board.keys()


def test_what_a_tracker_has_is_not_written_twice(tmp_path):
    run, logs = tmp_path / "run", tmp_path / "logs"
    track(study(run, separate="separate"), {"tensorboard": logs})
    before = sorted(logs.rglob("*"))
    again = Study.open(run)
    track(again, {"tensorboard": logs})
    assert sorted(logs.rglob("*")) == before
    track(study(run, separate="separate", joint="joint"), {"tensorboard": logs})
    assert [one.step for one in scalars(logs / "separate")["gain"]] == [1, 2]
    losses = scalars(logs / "separate seed 0")["loss/price"]
    assert len(losses) == len({one.step for one in losses})


def test_an_unknown_tracker_is_refused_before_anything_is_written(tmp_path):
    made = study(tmp_path / "run", separate="separate")
    with pytest.raises(ValueError, match=r"no tracker 'tensorbord'.*tensorboard"):
        track(made, {"tensorboard": tmp_path / "logs", "tensorbord": tmp_path / "logs"})
    assert not (tmp_path / "logs").exists()
