"""What becomes of cells that run out of memory, of time or of luck."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from studies import plan

import plait
from plait.comparing import Progress, Study
from plait.comparing.leases import Leases
from plait.comparing.model import Model
from plait.comparing.plan import Plan
from plait.comparing.running import Bounds, compute_one
from plait.comparing.space import NoSpaceError
from plait.comparing.strategies.joint import Joint
from plait.comparing.strategy import Strategy
from plait.method import Card
from plait.testing.faults import failing_write
from plait.training.interrupts import poll

ERRORS: dict[str, Exception] = {
    "python": MemoryError(),
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "cpu": RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
    "system": OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
}
SEEN: list[int] = []


@dataclass(frozen=True, kw_only=True)
class Hungry(Strategy):
    """Runs out of memory with fewer than ``needed`` micro-batches."""

    card: ClassVar[Card] = Card(family="strategy", name="hungry", summary="needs much memory")
    needed: int = 2
    error: str = "python"

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:
        SEEN.append(plan.training.micro_batches)
        if plan.training.micro_batches < self.needed:
            raise ERRORS[self.error]
        return Joint().run(plan, parts, seed, folder)


@dataclass(frozen=True, kw_only=True)
class Slow(Strategy):
    """Polls for as long as it is let, after saving something."""

    card: ClassVar[Card] = Card(family="strategy", name="slow", summary="takes its time")

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:
        folder.mkdir(exist_ok=True)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            poll()
            time.sleep(0.01)
        raise AssertionError("nobody stopped it")


@dataclass(frozen=True, kw_only=True)
class Robbed(Strategy):
    """Somebody else takes the cell over while it is computed."""

    card: ClassVar[Card] = Card(family="strategy", name="robbed", summary="loses its lease")
    run_folder: str = ""

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:
        SEEN.append(0)
        if len(SEEN) == 1:
            leases = Leases(Path(self.run_folder) / "leases")
            ((lease, _),) = leases.running()
            lease.end("died")
            assert leases.claim(lease.key) is not None
        return Joint().run(plan, parts, seed, folder)


class Said(Progress):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, words: str) -> None:
        self.said.append(words)


@pytest.fixture(autouse=True)
def _forget() -> None:
    SEEN.clear()


def study_of(folder: Path, **strategies: Any) -> Study:
    """A study with the named strategies and the prior, and no other baseline."""
    study = Study(plan(), strategies, folder=folder, seeds=1)
    study.strategies = {name: study.strategies[name] for name in (*strategies, "prior")}
    return study


@pytest.mark.parametrize("error", ERRORS)
def test_after_a_lack_of_memory_the_micro_batch_is_halved_and_the_row_says_so(
    tmp_path: Path, error: str
) -> None:
    study = study_of(tmp_path, hungry=Hungry(error=error), separate="separate")
    watch = Said()
    study.run(progress=watch)
    assert SEEN == [1, 2]
    assert "hungry ran out of memory" in watch.said
    assert study.failures() == []
    key = next(cell.key for place, cell in study.cells().items() if place.label == "hungry")
    told = study.store.read(key, "cell.json")["retried"]
    assert told == {"died": 0, "memory": 1, "micro_batches": 2}
    assert study.store.read(key, "model/about.json")["retried"] == told
    rows = {row.strategy: row.words for row in study.results.standings}
    assert "half the micro-batch after running out of memory" in rows["hungry"]
    assert "memory" not in rows["separate"]
    # The same rows with gradients added up: what is found hardly differs.
    whole = study_of(tmp_path / "whole", joint="joint", separate="separate").run(progress=Said())
    scores = [
        {(s.strategy, s.task): s.metrics for s in each.results.scores} for each in (study, whole)
    ]
    for task in study.tasks.names:
        for name, found in scores[0]["hungry", task].items():
            assert found.value == pytest.approx(scores[1]["joint", task][name].value, abs=1e-3)


def test_a_cell_that_runs_out_of_memory_again_is_a_row_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    study = study_of(tmp_path, hungry=Hungry(needed=8), separate="separate")
    study.run(progress=Said())
    assert SEEN == [1, 2]
    (failure,) = study.failures()
    assert failure.error == "out of memory, with half the micro-batch too"
    rows = {row.strategy: row for row in study.leaderboard()}
    assert rows["hungry"].failed.startswith("out of memory")
    assert rows["prior"].gain.defined
    study.run(progress=Said())  # another run tries again, from the beginning
    assert SEEN == [1, 2, 1, 2]


def test_a_cell_over_its_time_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    study = study_of(tmp_path, slow=Slow())
    study.run(cell_time=3.0, progress=Said())
    (failure,) = study.failures()
    assert failure.strategy == "slow"
    assert failure.error.startswith("over the time limit of 3")
    assert len(study.store.keys()) == 1


def test_a_training_over_its_time_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    long = Study(plan(passes=100_000, patience=None), {"joint": "joint"}, folder=tmp_path, seeds=1)
    long.strategies = {"joint": long.strategies["joint"]}
    long.run(cell_time=1.0, progress=Said())
    (failure,) = long.failures()
    assert "over the time limit" in failure.error
    (index,) = tmp_path.glob("cells/*.part/work/**/checkpoint.json")
    before = plait.weights.files.read_json(index)["progress"]["step"]
    assert before > 0
    long.run(cell_time=1.0, progress=Said())
    (index,) = tmp_path.glob("cells/*.part/work/**/checkpoint.json")
    assert plait.weights.files.read_json(index)["progress"]["step"] > before


def test_who_lost_its_lease_publishes_nothing(tmp_path: Path) -> None:
    study = study_of(tmp_path, robbed=Robbed(run_folder=str(tmp_path)))
    study.store.tidy()
    cell = next(cell for place, cell in study.cells().items() if place.label == "robbed")
    watch = Said()
    assert compute_one(study, cell, Bounds(), watch)
    assert watch.said == ["robbed was taken over by another process"]
    assert not study.store.finished(cell.key)
    assert study.store.failure(cell.key) is None
    lease = study.store.leases.last(cell.key)
    assert lease is not None
    assert lease.held()


@pytest.mark.parametrize("once", [False, True])
def test_a_full_disk_is_no_failure_of_a_cell(tmp_path: Path, once: bool) -> None:
    study = study_of(tmp_path, joint="joint")
    study.write()
    message = "the disk is full; free some space and give the same command again"
    with failing_write(tmp_path, 60, once=once), pytest.raises(NoSpaceError, match=message):
        study.run(progress=Said())
    assert list(tmp_path.glob("cells/*.part"))  # it was within a cell
    assert not list(tmp_path.glob("cells/*.failed.json"))
    study.run(progress=Said())
    assert study.failures() == []


def test_a_disk_that_is_nearly_full_is_told_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path, joint="joint")

    @dataclass
    class Usage:
        free: int = 12_000_000

    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage())
    with pytest.raises(NoSpaceError, match=r"12\.0 MB are free on the disk and about 16\.8 MB"):
        study.run(progress=Said())
    assert study.store.keys() == []


def test_a_folder_that_cannot_be_written_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    study = study_of(tmp_path, joint="joint")
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match=r"cannot be written \(Read-only file system\); copy the run"):
        study.run(progress=Said())
