"""Cells spread over Ray: a cluster of this machine whose workers are killed."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from pathlib import Path

import pytest
from studies import ENCODER, table

import plait
from plait.comparing import Progress, Study
from plait.comparing.leases import Leases

GIVEN = {
    "targets": ["click", "price"], "strategies": ["joint", "merge"], "encoder": ENCODER,
    "training": {"passes": 40, "patience": None}, "seeds": 2,
}  # fmt: skip


class Killer(threading.Thread):
    """Kills processes that hold a cell, at most twice a cell, until it has killed ``count``."""

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(daemon=True)
        self.leases = Leases(folder / "leases")
        self.left = count
        self.deaths: dict[str, int] = {}
        self.over = threading.Event()

    def run(self) -> None:
        chance = random.Random(0)
        while self.left and not self.over.wait(chance.uniform(0, 0.4)):
            for lease, owner in self.leases.running():
                if self.deaths.get(lease.key, 0) < 2 and owner.process != os.getpid():
                    self.deaths[lease.key] = self.deaths.get(lease.key, 0) + 1
                    os.kill(owner.process, signal.SIGKILL)
                    self.left -= 1
                    break


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_killed_ray_workers_change_nothing(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    whole = plait.compare(table(200), out=tmp_path / "whole", progress=Progress(), **GIVEN)
    folder = tmp_path / "ray"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    killer = Killer(folder, count=5)
    killer.start()
    try:
        study = plait.compare(table(200), out=folder, on="ray", progress=Progress(), **GIVEN)
    finally:
        killer.over.set()
        ray.shutdown()
    assert killer.left < 5
    assert study.failures() == []
    assert [(s.strategy, s.task, s.metrics) for s in study.results.scores] == [
        (s.strategy, s.task, s.metrics) for s in whole.results.scores
    ]
    assert not list(folder.glob("cells/*.part"))
    assert not list(folder.glob("leases/*"))


def test_without_the_extra_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    study = plait.compare(
        table(80), targets=["click"], strategies=["joint"], encoder=ENCODER, seeds=1,
        out=tmp_path, run=False,
    )  # fmt: skip
    with pytest.raises(ImportError) as error:
        study.run(on="ray", progress=Progress())
    assert str(error.value) == "--on ray needs the extra 'ray': pip install 'plait[ray]'"


def test_there_is_no_other_cluster(tmp_path: Path) -> None:
    study = plait.compare(
        table(80), targets=["click"], strategies=["joint"], encoder=ENCODER, seeds=1,
        out=tmp_path, run=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="cannot be computed on 'rya'; the one way there is is"):
        study.run(on="rya", progress=Progress())
    assert Study.open(tmp_path).store.keys() == []
