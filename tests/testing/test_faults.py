from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from plait.testing.faults import NanAt, failing_write, flip, full_disk, tear, wait_for
from plait.weights.files import DamagedError, publish, read_json, verify, write_json


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "model.json"
    write_json(path, {"kept": True})
    with pytest.raises(OSError, match="space") as caught, full_disk(tmp_path):
        write_json(path, {"kept": False})
    assert caught.value.errno == errno.ENOSPC
    assert read_json(path) == {"kept": True}
    assert [p.name for p in tmp_path.iterdir()] == ["model.json"]
    for at in range(5):  # opening, writing, flushing, renaming, flushing the folder
        with pytest.raises(OSError, match="space"), failing_write(tmp_path, at):
            write_json(path, {"kept": at < 4})
        assert read_json(path) == {"kept": at < 4}
        assert [p.name for p in tmp_path.iterdir()] == ["model.json"]
    write_json(path, {"kept": True})  # space again
    assert read_json(path) == {"kept": True}


def test_a_full_disk_fills_up_after_the_bytes_it_has_left(tmp_path):
    with full_disk(tmp_path, after=10):
        (tmp_path / "a").write_bytes(bytes(6))
        with pytest.raises(OSError, match="space"):
            (tmp_path / "b").write_bytes(bytes(6))
    (tmp_path.parent / "outside").write_bytes(bytes(100))


@pytest.mark.parametrize("damage", [tear, flip])
def test_a_torn_or_altered_file_is_noticed(tmp_path, damage):
    (tmp_path / "weights.bin").write_bytes(bytes(range(100)))
    publish(tmp_path)
    verify(tmp_path)
    damage(tmp_path / "weights.bin")
    with pytest.raises(DamagedError, match=r"weights\.bin \(altered\)"):
        verify(tmp_path)


@pytest.mark.parametrize(
    ("make", "code"), [("terminate_at", -signal.SIGTERM), ("kill_at", -signal.SIGKILL)]
)
def test_a_process_ends_at_the_given_step(make, code):
    script = (
        f"from plait.testing.faults import {make}; hook = {make}(3)\n"
        "for step in range(9):\n    print(step, flush=True)\n    hook(None, None)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == code
    assert done.stdout.split() == [b"0", b"1", b"2", b"3"]


def test_a_module_is_spoilt_at_the_given_calls_only():
    spoilt = NanAt(nn.Linear(2, 2), {1})
    x = torch.ones(1, 2)
    first, second, third = spoilt(x), spoilt(x), spoilt(x)
    assert first.isfinite().all()
    assert second.isnan().all()
    assert second.requires_grad
    assert torch.equal(first, third)


def test_one_entry_of_a_mapping_is_spoilt():
    class Two(nn.Module):
        def forward(self, x):
            return {"a": x + 1, "b": x + 2}

    found = NanAt(Two(), {0}, key="b")(torch.zeros(2))
    assert found["a"].isfinite().all()
    assert found["b"].isnan().all()


def test_waiting_ends_with_a_clear_error(tmp_path):
    wait_for(lambda: True)
    with pytest.raises(TimeoutError, match=r"nothing happened within 0\.05 s"):
        wait_for(lambda: Path(tmp_path / "never").exists(), seconds=0.05)


def test_every_kind_of_write_can_be_the_one_that_fails(tmp_path):
    import sqlite3

    import polars as pl
    from safetensors.torch import save_file

    def work(folder):
        (folder / "inner").mkdir(parents=True, exist_ok=True)
        write_json(folder / "inner" / "a.json", {"kept": True})
        (folder / "inner" / "a.json").replace(folder / "b.json")
        pl.DataFrame({"a": [1]}).write_parquet(folder / "c.parquet")
        save_file({"a": torch.ones(1)}, folder / "d.safetensors")
        sqlite3.connect(folder / "e.sqlite").close()
        (tmp_path.parent / f"{tmp_path.name}.outside").write_text("not counted")

    with failing_write(tmp_path, None) as disk:
        work(tmp_path / "whole")
    # two folders, one tried twice; open, write, two flushes, a rename; a rename; three libraries
    assert disk.writes == 3 + 5 + 1 + 3
    for at in range(disk.writes):
        for once in (False, True):
            folder = tmp_path / f"{at} {once}"
            with failing_write(tmp_path, at, once=once):
                with pytest.raises(OSError, match="space") as caught:
                    work(folder)
                assert caught.value.errno == errno.ENOSPC
                assert not list(folder.glob("inner/.*.tmp"))
                if once:
                    work(folder)  # there is room again


def test_the_write_that_fails_is_done_by_half(tmp_path):
    with pytest.raises(OSError, match="space"), failing_write(tmp_path, 1):
        (tmp_path / "a").write_bytes(bytes(10))
    assert (tmp_path / "a").stat().st_size == 5
