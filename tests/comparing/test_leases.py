from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from plait.comparing import leases as rooms
from plait.comparing.leases import Lease, Leases, Owner
from plait.testing.faults import wait_for


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    return Leases(tmp_path / "leases", silent=0.05)


def claim(leases: Leases, key: str = "k") -> Lease:
    lease = leases.claim(key)
    assert lease is not None
    return lease


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this process believes to be on another machine."""
    monkeypatch.setattr(rooms, "machine", lambda: "another")


HOLD = """
import sys
from pathlib import Path
from plait.comparing.leases import Leases
print(Leases(Path(sys.argv[1])).claim("k", "joint").number, flush=True)
sys.stdin.read()
"""


def test_a_lease_holds_until_its_process_dies(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"1"
        assert leases.claim("k") is None
        ((_, owner),) = leases.running()
        assert (owner.process, owner.label) == (other.pid, "joint")
        other.kill()
        wait_for(lambda: leases.claim("k") is not None)  # a dead process, before it is buried
    assert claim(leases, "other").number == 1
    last = leases.last("k")
    assert last is not None
    assert last.number == 2
    assert leases.ways("k") == ["died"]


def test_who_could_not_say_that_it_ended_does_not_wait_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = Leases(tmp_path)  # of the usual patience, a minute and a half
    lease = claim(leases)
    assert leases.claim("k") is None
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        lease.end("interrupted")
    assert not lease.ended
    assert not list(leases.running())
    assert claim(leases).number == 2


def test_a_number_is_given_once(leases: Leases) -> None:
    found: list[Lease | None] = []
    barrier = threading.Barrier(8)

    def race() -> None:
        mine = Leases(leases.folder)
        barrier.wait()
        found.append(mine.claim("k"))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([lease for lease in found if lease is not None]) == 1
    assert [path.name for path in (leases.folder / "k").iterdir()] == ["0001"]


def test_an_ended_lease_is_followed_at_once_and_the_former_owner_knows(leases: Leases) -> None:
    first = claim(leases)
    assert first.held()
    first.end("interrupted")
    assert not first.held()
    second = claim(leases)
    assert second.number == 2
    assert second.held()
    assert not first.held()


def test_a_lease_of_another_machine_is_taken_over_after_silence_alone(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = claim(leases)
    # The owner's machine has a clock of another year, and its process number is nobody's here.
    os.utime(first.place / "owner.json", (0, 0))
    elsewhere(monkeypatch)
    assert leases.claim("k") is None  # it was seen for the first time
    os.utime(first.place / "owner.json", (1e9, 1e9))
    assert not leases.over(first)  # a sign of life, whatever its date
    wait_for(lambda: leases.claim("k") is not None)
    assert not first.held()


def test_signs_of_life_keep_a_lease_and_its_loss_is_told(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, lost = claim(leases), threading.Event()
    watching = Leases(leases.folder, silent=0.3)
    with first.beating(lost.set, every=0.02):
        elsewhere(monkeypatch)
        for _ in range(20):
            assert watching.claim("k") is None
            threading.Event().wait(0.03)
        assert not lost.is_set()
        first.end("died")  # somebody else says so
        assert lost.wait(5)


def test_deaths_are_counted_since_the_last_failure_or_pardon(leases: Leases) -> None:
    for how in ("died", "memory", "interrupted", "failed", "memory", "interrupted", "died"):
        claim(leases).end(how)
    assert leases.ways("k") == ["memory", "died"]
    leases.forgive("k")
    assert leases.ways("k") == []
    mine = claim(leases)
    leases.forgive("k")  # not the one that is held
    assert mine.held()
    leases.clear("k")
    assert not mine.held()
    mine.end("interrupted")  # of no use, and no error
    assert claim(leases).number == 1


def test_an_owner_with_a_used_up_process_number_is_gone() -> None:
    assert not Owner().gone()
    if Path("/proc/self/stat").exists():
        assert Owner(born="1").gone()


def test_a_folder_that_cannot_be_written_is_an_error_and_not_a_held_lease(
    tmp_path: Path,
) -> None:
    (tmp_path / "leases").write_text("a file")
    with pytest.raises(OSError, match="leases"):
        Leases(tmp_path / "leases").claim("k")
