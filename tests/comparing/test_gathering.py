from __future__ import annotations

import pytest

from plait.comparing.gathering import logs, mixtures, plain_recipe
from plait.comparing.study import Study
from plait.comparing.watching import curves
from plait.recipes.document import parse


def test_curves_of_networks_trained_apart_stand_together(study: Study) -> None:
    cells = {place: cell for place, cell in study.cells().items() if place.label == "separate"}
    found = [c for log in logs(study, cells) for c in curves(log) if c.kind == "valid"]
    assert len(found) == 2  # one for each seed
    assert set(found[0].series) == {"click", "price", "grade"}
    assert all(len(values) == len(found[0].steps) for values in found[0].series.values())


def test_the_use_of_experts_is_gathered_from_every_cell_that_has_some(study: Study) -> None:
    found = study.results.usages
    assert [(use.strategy, use.seed) for use in found] == [("experts", "0"), ("experts", "1")]
    for use in found:
        assert list(use.tasks) == ["click", "price", "grade"]
        assert list(use.experts) == ["shared expert 1", "shared expert 2"]
        assert [sum(row) for row in use.load] == pytest.approx([1, 1, 1], abs=1e-3)


def test_what_adapters_store_is_gathered(study: Study) -> None:
    found = study.results.adapters
    assert [(size.strategy, size.seed) for size in found] == [("adapted", "0"), ("adapted", "1")]
    for size in found:
        assert len(size.stored) == 3
        assert size.common == 0
        assert size.trained == sum(size.stored) > 0


def test_what_merges_took_of_each_model_is_gathered_where_they_tell(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not study.results.mixtures, "task arithmetic with a given scale tells nothing"
    finished = {place: cell for place, cell in study.cells().items() if place.label == "merged"}
    told = {"models": ["x", "y"], "coefficients": {"w": [0.1, 0.2]}, "kept": "what was tuned"}
    monkeypatch.setattr(type(study.store), "read", lambda *_: {"evidence": told})
    found = list(mixtures(study, finished))
    assert [(each.strategy, each.seed) for each in found] == [("merged", "0"), ("merged", "1")]
    assert found[0].rows == {"w": [0.1, 0.2]}
    assert (found[0].models, found[0].kept) == (["x", "y"], "what was tuned")


def test_a_study_that_had_no_file_is_told_in_yaml(study: Study) -> None:
    told = parse(plain_recipe(study), "study.yaml").value
    assert told["title"] == "A small study"
    assert told["training"]["passes"] == 2
    assert told["seeds"] == {"init": 2, "split": 1}
    assert told["strategies"]["adapted"] == {"adapt": {"lora": {"rank": 2}}}
    assert "tune" not in told
