from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plait.weights import files


def test_a_file_is_replaced_whole_and_leaves_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.bin"
    files.write_atomic(path, b"one")
    files.write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    files.write_atomic(path, b"old")

    def write_half() -> None:
        with files.replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_sealed_folder_is_verified(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.txt").write_text("hello")
    (tmp_path / "b.txt").write_text("world")
    assert not files.published(tmp_path)
    files.publish(tmp_path, {"key": "k"})
    assert files.verify(tmp_path)["key"] == "k"
    (tmp_path / "b.txt").write_text("w0rld")
    (tmp_path / "inner" / "a.txt").unlink()
    with pytest.raises(files.DamagedError, match=r"b.txt \(altered\).*inner/a.txt \(missing\)"):
        files.verify(tmp_path)


def test_a_manifest_pointing_outside_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "secret.txt"
    outside.write_text("x")
    folder = tmp_path / "cell"
    folder.mkdir()
    entry = {"sha256": files.digest(outside), "bytes": 1}
    files.write_json(folder / files.MANIFEST, {"files": {"../secret.txt": entry}})
    with pytest.raises(files.DamagedError, match="outside"):
        files.verify(folder)


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(files.DamagedError, match="never finished"):
        files.verify(tmp_path)


WRITER = """
import sys, pathlib
from plait.weights.files import replacing
with replacing(pathlib.Path(sys.argv[1]) / "a.bin") as temporary:
    temporary.write_bytes(b"x" * 1000)
    print("half", flush=True)
    sys.stdin.read()
"""


def test_a_killed_writer_leaves_a_stray_that_is_swept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert files.sweep(tmp_path) == []  # it is still being written
        writer.send_signal(signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 1
    assert len(files.sweep(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_stray_of_an_earlier_process_with_our_number_is_swept(tmp_path: Path) -> None:
    host = files._HOST
    (tmp_path / f".{host}-{os.getpid()}-00000000-11111111.bin.tmp").write_bytes(b"")
    assert len(files.sweep(tmp_path)) == 1


def test_another_machines_temporary_is_swept_after_a_day(tmp_path: Path) -> None:
    foreign = tmp_path / ".elsewhere-7-00000000-11111111.bin.tmp"
    foreign.write_bytes(b"")
    assert files.sweep(tmp_path) == []
    os.utime(foreign, (time.time() - 2 * files.DAY,) * 2)
    assert files.sweep(tmp_path) == [foreign]


def test_files_loads_no_torch() -> None:
    code = "import sys, plait.weights.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_is_discarded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed in the middle of it leaves a stray, and no half of the folder."""
    folder = tmp_path / "cell"
    folder.mkdir()
    (folder / "a").write_text("a")
    with monkeypatch.context() as killed:
        killed.setattr("shutil.rmtree", lambda *_, **__: None)
        files.discard(folder)
    assert not folder.exists()
    (stray,) = tmp_path.iterdir()
    other = stray.with_name(stray.name.replace(f"-{os.getpid()}-", "-999999999-"))
    stray.rename(other)
    assert files.sweep(tmp_path) == [other]
    assert list(tmp_path.iterdir()) == []
    files.discard(folder)  # nothing to do


def test_what_is_left_out_of_a_seal_can_go(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "state").write_text("large")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "manifest.json").write_text("{}")
    files.publish(tmp_path, leave="work")
    (tmp_path / "work" / "state").unlink()
    assert files.verify(tmp_path)["files"].keys() == {"inner/manifest.json"}
    (tmp_path / "inner" / "manifest.json").write_text("{ }")
    with pytest.raises(files.DamagedError, match=r"inner/manifest.json \(altered\)"):
        files.verify(tmp_path)


def test_a_used_up_process_number_is_not_alive() -> None:
    assert files.alive(os.getpid())
    assert files.alive(os.getpid(), files.born(os.getpid()))
    if files.born(os.getpid()):
        assert not files.alive(os.getpid(), "1")
