from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from plait.weights import folders
from plait.weights.checkpoints import INDEX, open_checkpoint
from plait.weights.files import published, verify
from plait.weights.folders import DiskFullError, Folder, FolderError
from plait.weights.sites import Site

SITES = [Site(name=name, shape=(5,), kind="F32") for name in "abc"]


def fill(sink: Folder, stop: int = 3) -> None:
    for number, shard in enumerate(sink.shards(SITES, {})):
        if number == stop:
            raise InterruptedError
        for site in shard:
            sink.write(site, 2, np.full(3, number, np.float32))
            sink.write(site, 0, np.full(2, 9, np.float32))


def test_a_folder_is_absent_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    sink = Folder(path, "x", shard=20)
    fill(sink)
    assert not path.exists()
    sink.seal({"by": "hand"})
    assert verify(path)["by"] == "hand"
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    assert sorted(one.name for one in path.iterdir()) == [
        "manifest.json",
        *(f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)),
        INDEX,
    ]
    assert json.loads((path / INDEX).read_text("utf-8"))["metadata"] == {"total_size": 60}
    assert open_checkpoint(path).stored("b", 0, 5).tolist() == [9, 9, 1, 1, 1]
    assert sink.tensors["c"].tolist() == [9, 9, 2, 2, 2]


def test_one_shard_has_the_plain_name_and_no_index(tmp_path: Path) -> None:
    sink = Folder(tmp_path / "out", "x")
    fill(sink)
    sink.seal()
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"model.safetensors", "manifest.json"}


def test_the_same_merge_goes_on_and_another_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(InterruptedError):
        fill(Folder(path, "x", shard=20), stop=2)
    assert not path.exists()
    left = [list(shard) for shard in Folder(path, "x", shard=20).shards(SITES, {})]
    assert left == [[SITES[2]]]
    fill(Folder(path, "x", shard=20), stop=9)
    again = list(Folder(path, "y", shard=20).shards(SITES, {}))
    assert len(again) == 3
    assert not published(path)


def test_what_stands_there_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    with pytest.raises(FolderError, match="is there already"):
        Folder(path, "x")
    sink = Folder(path, "x", replace=True)
    fill(sink)
    sink.seal()
    assert published(path)


def test_a_folder_in_the_way_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / ".out.merging"
    other.mkdir()
    (other / "notes.txt").write_text("mine", "utf-8")
    with pytest.raises(FolderError, match="was not left by a merge"):
        fill(Folder(tmp_path / "out", "x"))
    assert (other / "notes.txt").read_text("utf-8") == "mine"


def test_a_folder_that_a_living_process_fills_is_refused(tmp_path: Path) -> None:
    part = tmp_path / ".out.merging"
    part.mkdir()
    (part / folders.PROGRESS).write_text('{"identity": "x"}', "utf-8")
    (part / folders.CLAIM).write_text('{"process": 1, "born": ""}', "utf-8")
    with pytest.raises(FolderError, match="process 1 is writing there"):
        fill(Folder(tmp_path / "out", "x"))


def test_a_full_disk_is_noticed_before_a_byte_is_written(tmp_path: Path) -> None:
    huge = [Site(name="w", shape=(1 << 50,), kind="F32")]
    with pytest.raises(DiskFullError, match="GB are free; make room") as error:
        next(iter(Folder(tmp_path / "out", "x").shards(huge, {})))
    assert error.value.exit_code == 75
