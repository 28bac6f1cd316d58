"""Signals reach a training as they reach it in a study: a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from training_toys import Deck, furthest, make_network, slices

from plait.training import fit
from plait.training.interrupts import Interrupted, Interrupts, Terminated, poll, stoppable

PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import torch
from training_toys import KINDS, Deck, make_network
from plait.testing.toys import toy_tasks
from plait.training import fit

def watch(problem, signals):
    print(problem.step, flush=True)

tasks = toy_tasks(KINDS)
network = make_network(tasks)
fit(network, Deck(tasks), steps=100_000, checkpoint=Path({folder!r}), observers=[watch])
"""


def started(folder: Path, until: str) -> subprocess.Popen[str]:
    here = str(Path(__file__).parent)
    code = PROGRAM.format(here=here, folder=str(folder))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == until:
            return process
    raise AssertionError(process.stderr.read() if process.stderr else "")


def test_a_signal_saves_and_exits_with_143(tasks, tmp_path):
    process = started(tmp_path, "7")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    last = int(out.split()[-1]) if out.split() else 7
    (state,) = tmp_path.glob("state-*.safetensors")
    assert state.name == f"state-{last + 1}.safetensors"

    class Stop(Exception):  # noqa: N818
        pass

    def watch(problem, signals):
        assert problem.step == last + 1
        raise Stop

    network, whole = make_network(tasks), make_network(tasks)
    with pytest.raises(Stop):
        fit(network, Deck(tasks), steps=100_000, checkpoint=tmp_path, observers=[watch])
    fit(whole, Deck(tasks), steps=last + 2)
    assert furthest(slices(network), slices(whole)) == 0


def test_a_signal_during_validation_does_not_wait_for_its_end(tasks, tmp_path):
    seen = []

    def validate(network):
        seen.append("begun")
        if len(seen) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            poll()
            seen.append("ended")
        return {"real.1": 1.0}

    given = {"steps": 3, "checkpoint": tmp_path, "validate": validate, "validate_every": 3}
    with pytest.raises(Interrupted):
        fit(make_network(tasks), Deck(tasks), **given)
    assert seen == ["begun"]
    assert (tmp_path / "state-3.safetensors").exists()
    run = fit(make_network(tasks), Deck(tasks), **given)
    assert (run.step, run.losses) == (3, {"real.1": 1.0})


def test_the_second_ctrl_c_quits_now():
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_come_back_and_other_threads_do_not_listen():
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        assert signal.getsignal(signal.SIGTERM) != before
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as left:
            poll()
    assert interrupts.asked
    assert left.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    poll()

    def elsewhere() -> None:
        with Interrupts():
            seen.append(signal.getsignal(signal.SIGTERM))

    seen: list[object] = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_without_a_folder_a_signal_still_ends_it(tasks, number):
    def watch(problem, signals):
        assert problem.step <= 2
        if problem.step == 2:
            os.kill(os.getpid(), number)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    with pytest.raises(Interrupted):
        fit(make_network(tasks), Deck(tasks), steps=50, observers=[watch])
    assert torch.equal(before, torch.get_rng_state())


def test_a_signal_that_comes_too_late_for_the_last_step_is_not_lost():
    with pytest.raises(Interrupted), Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)  # and the work inside is over before it looks


def test_a_signal_is_not_lost_beside_an_error():
    def fail() -> None:
        with Interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
            raise ValueError("for a reason of its own")

    with pytest.raises(Interrupted):
        fail()


def test_outside_of_a_training_a_signal_ends_at_once_and_cannot_be_swallowed():
    before = signal.getsignal(signal.SIGTERM)

    class Swallows:
        def __del__(self) -> None:
            with suppress(Interrupted):
                os.kill(os.getpid(), signal.SIGTERM)

    with Terminated():
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
        Swallows()
        with pytest.raises(Interrupted):
            poll()
    assert signal.getsignal(signal.SIGTERM) == before
    poll()


@pytest.mark.parametrize("save", [True, False])
def test_another_thread_can_end_a_training(tasks, tmp_path, save):
    class Enough(Exception):  # noqa: N818
        pass

    def watch(problem, signals):
        if problem.step == 4:
            thread = threading.Thread(target=lambda: stop(Enough("4 are enough"), save=save))
            thread.start()
            thread.join()
            stop(RuntimeError("too late"), save=True)  # only the first reason counts

    with pytest.raises(Enough, match="4 are enough"), stoppable() as stop:
        fit(make_network(tasks), Deck(tasks), steps=50, checkpoint=tmp_path, observers=[watch])
    assert [path.name for path in tmp_path.glob("state-*")] == ["state-5.safetensors"] * save
    poll()
