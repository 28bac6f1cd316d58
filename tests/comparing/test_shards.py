"""Shares of a study: together they are the study, apart they need nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
from studies import ENCODER, plan, table

import plait
from plait.comparing import Progress, Study
from plait.comparing.cells import Shard


def test_a_shard_is_read_as_people_write_it() -> None:
    assert Shard.read("3/50") == Shard(3, 50)
    assert str(Shard(3, 50)) == "3/50"
    for wrong in ("0/3", "4/3", "3", "3/", "a/b", "-1/3", "1/3/5"):
        with pytest.raises(ValueError, match=f"no shard {wrong!r}; write 3/50"):
            Shard.read(wrong)


def test_shards_are_the_study_and_each_has_all_that_its_cells_need(tmp_path: Path) -> None:
    strategies = {"joint": "joint", "merged": "merge", "other": {"joint": {"sharing": "mmoe"}}}
    study = Study(plan(), strategies, folder=tmp_path, seeds=3)
    whole = {cell.key for cell in study.wanted()}
    shares = [study.wanted(Shard(number, 4)) for number in range(1, 5)]
    assert set().union(*({cell.key for cell in share} for share in shares)) == whole
    for share in shares:
        keys = {cell.key for cell in share}
        assert all(part.key in keys for cell in share for part in cell.parts.values())
    own = [{p for p in study.cells() if study._share(Shard(n, 4)) & {p}} for n in range(1, 5)]
    assert sum(len(share) for share in own) == len(study.cells())
    assert max(len(share) for share in own) - min(len(share) for share in own) <= 3


def test_a_tuned_strategy_of_a_shard_has_its_trials_there(tmp_path: Path) -> None:
    tune = {"trials": 3, "over": {"learning_rate": [0.01, 0.02]}}
    study = Study(plan(), {"joint": "joint"}, folder=tmp_path, seeds=2, tune=tune)
    for number in range(1, 4):
        shard = Shard(number, 3)
        mine = {place.label for place in study._share(shard)}
        trials = {cell.key for label in mine for cell in study.trials(label)}
        assert trials <= {cell.key for cell in study.wanted(shard)}


def test_shards_one_after_another_give_the_report_of_the_whole(tmp_path: Path) -> None:
    given = {
        "targets": ["click", "price"], "strategies": ["joint", "merge"], "encoder": ENCODER,
        "training": {"passes": 1}, "seeds": 1,
    }  # fmt: skip
    folders = [tmp_path / "shards", tmp_path / "whole"]
    for shard in ("1/3", "2/3", "3/3"):
        plait.compare(table(80), out=folders[0], shard=shard, progress=Progress(), **given)
        if shard == "1/3":
            assert any("not started" in f.error for f in Study.open(folders[0]).failures())
    plait.compare(table(80), out=folders[1], progress=Progress(), **given)
    found, whole = (Study.open(folder).results for folder in folders)
    assert not found.failures
    assert [(s.strategy, s.task, s.metrics) for s in found.scores] == [
        (s.strategy, s.task, s.metrics) for s in whole.scores
    ]


def test_a_shard_leaves_the_failures_of_others_alone(tmp_path: Path) -> None:
    study = Study(plan(), {"joint": "joint"}, folder=tmp_path, seeds=1)
    study.strategies = {name: study.strategies[name] for name in ("prior", "linear")}
    first, second = (study.wanted(Shard(number, 2)) for number in (1, 2))
    study.store.tidy()
    study.store.fail(second[0].key, "no luck")
    study.run(shard="1/2", progress=Progress())
    assert study.store.finished(first[0].key)
    assert study.store.failure(second[0].key) is not None
    study.run(shard="2/2", progress=Progress())
    assert study.failures() == []
