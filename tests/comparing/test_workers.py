"""Processes that share a study, and what their deaths become."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from studies import ENCODER, table

import plait
from plait.comparing import Progress, Study, workers
from plait.comparing.model import Model
from plait.comparing.plan import Plan
from plait.comparing.strategies.joint import Joint
from plait.comparing.strategy import Strategy
from plait.method import Card
from plait.testing.faults import wait_for
from plait.weights.files import alive


@dataclass(frozen=True, kw_only=True)
class Dying(Strategy):
    """Ends its process by a signal, as often as ``times`` says, then trains."""

    card: ClassVar[Card] = Card(family="strategy", name="dying", summary="kills its process")
    times: int = 1
    place: str = ""

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:
        log = Path(self.place)
        tries = log.read_text().split() if log.exists() else []
        log.write_text(" ".join([*tries, str(plan.training.micro_batches)]))
        if len(tries) < self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        return Joint().run(plan, parts, seed, folder)


class Said(Progress):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, words: str) -> None:
        self.said.append(words)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A study of one strategy that kills its process ``times`` times, and the prior."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))

    def made(times: int) -> Study:
        dying = {"test_workers:Dying": {"times": times, "place": str(tmp_path / "log")}}
        study = plait.compare(
            table(80), targets=["click"], strategies={"dying": dying}, encoder=ENCODER,
            training={"passes": 1}, seeds=1, out=tmp_path / "run", run=False,
        )  # fmt: skip
        study.strategies = {name: study.strategies[name] for name in ("dying", "prior")}
        return study

    return made


@pytest.mark.slow
def test_a_cell_survives_two_deaths_and_nothing_is_different(make: Any, tmp_path: Path) -> None:
    study, watch = make(2), Said()
    study.run(workers=1, progress=watch)
    assert study.failures() == []
    assert (tmp_path / "log").read_text() == "1 1 1"
    assert watch.said.count("a worker died (exit code -9) computing dying") == 2
    key = study.wanted()[0].key
    assert study.store.read(key, "cell.json")["retried"] == {"died": 2, "memory": 0}


@pytest.mark.slow
def test_a_worker_that_the_kernel_kills_for_memory_comes_again_with_smaller_batches(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = iter(range(10**6))  # the kernel's counter goes up at every look
    monkeypatch.setattr(workers, "kernel_kills", lambda: next(kills))
    study, watch = make(1), Said()
    study.run(workers=1, progress=watch)
    assert (tmp_path / "log").read_text() == "1 2"
    assert "a worker died (out of memory) computing dying" in watch.said
    assert study.failures() == []
    (tmp_path / "log").unlink()
    again = make(9)
    again.run(workers=1, progress=watch)
    (failure,) = again.failures()
    assert failure.error == "out of memory, with half the micro-batch too"
    assert (tmp_path / "log").read_text() == "1 2"


def test_workers_that_cannot_work_say_why(tmp_path: Path, capfd: Any) -> None:
    study = plait.compare(
        table(80), targets=["click"], strategies=["joint"], encoder=ENCODER, seeds=1,
        out=tmp_path, run=False,
    )  # fmt: skip
    study.write()
    told = json.loads((tmp_path / "study.json").read_text())
    given = {"strategies": {"joint": "nowhere:Nothing"}, "given": ["joint"]}

    class Worse(Progress):
        def start(self, total: int, done: int, *_: Any) -> None:
            (tmp_path / "study.json").write_text(json.dumps({**told, **given}))

    with pytest.raises(ChildProcessError, match="a worker could not work; its message is above"):
        study.run(workers=1, progress=Worse())
    found = capfd.readouterr()
    assert "error:" in found.err
    assert "nowhere" in found.err
    assert "Traceback" not in found.err
    assert found.out == ""


SCRIPT = """
import sys
from plait.comparing import Progress, Study
Study.open(sys.argv[1]).run(workers=1, progress=Progress())
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_save_and_leave_with_the_process_that_started_them(
    tmp_path: Path, number: int
) -> None:
    study = plait.compare(
        table(200), targets=["click"], strategies=["joint"], encoder=ENCODER,
        training={"passes": 100_000, "patience": None}, seeds=1, out=tmp_path, run=False,
    )  # fmt: skip
    study.write()
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)]) as process:
        wait_for(lambda: list(tmp_path.glob("cells/*.part/work/**/events.jsonl")), 120)
        ((_, owner),) = study.store.leases.running()
        assert owner.process != process.pid
        time.sleep(0.2)
        process.send_signal(number)
        code = process.wait(timeout=120)
        assert code == (143 if number == signal.SIGTERM else -number)
        wait_for(lambda: not alive(owner.process, owner.born), 60)
    assert list(tmp_path.glob("cells/*.part/work/**/checkpoint.json"))
    assert not list(study.store.leases.running())
