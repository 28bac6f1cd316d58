from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plait.weights import pickles, unpickle
from plait.weights.checkpoints import INDEX, open_checkpoint
from plait.weights.files import DamagedError
from plait.weights.folders import FolderError
from plait.weights.pickles import convert
from plait.weights.states import read_state

REQUEST = {"key": None, "memory": 2**30}


def here(folder: Path, value: Any, **request: Any) -> dict[str, Any]:
    """What the child process does, in this one."""
    torch.save(value, folder / "x.pt")
    target = folder / "x.safetensors"
    return unpickle.convert(folder / "x.pt", target, {**REQUEST, **request})


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in this process, where the test is about the files."""

    def one(source: Path, target: Path, key: str | None, *_: object) -> dict[str, Any]:
        try:
            return unpickle.convert(source, target, {**REQUEST, "key": key})
        except unpickle.RefusedError as error:
            raise DamagedError(f"{source}: {error}") from error

    monkeypatch.setattr(pickles, "_one", one)


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "ran"))


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """A file that is there if a program in the pickles beside it, or their torch, was run."""
    ran = tmp_path / "ran"
    (tmp_path / "torch.py").write_text(f"open({str(ran)!r}, 'w')\n", "utf-8")
    torch.save({"w": torch.ones(2), "x": Hostile(ran)}, tmp_path / "evil.bin")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"x": Hostile(ran)}, protocol=2))
    return ran


def test_a_hostile_pickle_runs_nothing_and_leaves_nothing(
    ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ran.parent)
    before = sorted(ran.parent.iterdir())
    with pytest.raises(DamagedError, match=r"evil.bin: it holds an object \(getattr\) that takes"):
        convert("evil.bin")
    assert sorted(ran.parent.iterdir()) == before


def test_no_word_of_a_refusal_says_to_read_it_all_the_same(ran: Path) -> None:
    for name in ("evil.bin", "plain.pt"):
        with pytest.raises(pickle.UnpicklingError) as error:
            unpickle.convert(ran.parent / name, ran.parent / "x.safetensors", REQUEST)
        told = unpickle.explained(error.value)
        assert "weights_only" not in told
        assert "\n" not in told
    assert not ran.exists()


def test_every_type_and_shape_arrives_bit_for_bit(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(3, 4, generator=draw)
    state = {
        str(kind): (values * 10).to(kind)
        for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool)
    }
    state |= {"turned": values.T, "part": values[1:, ::2], "one": torch.tensor(3.5)}
    state |= {"none": torch.empty(0, 3), "learnt": torch.nn.Parameter(values.clone())}
    state |= {"shown": torch.ones(1).expand(2, 5)}
    assert here(tmp_path, OrderedDict(state))["left"] == []
    from safetensors.torch import load_file

    back = load_file(tmp_path / "x.safetensors")
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name], value)


def test_older_files_are_read_too(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(4.0)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    answer = unpickle.convert(tmp_path / "x.pt", tmp_path / "x.safetensors", REQUEST)
    assert answer["tensors"] == ["w"]
    assert read_state(tmp_path / "x.safetensors")["w"].tolist() == [0, 1, 2, 3]


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    state = {"embed": shared, "head": shared, "turned": shared.T, "same": shared.clone()}
    answer = here(tmp_path, state)
    assert answer["tied"] == {"head": "embed"}
    opened = open_checkpoint(tmp_path / "x.safetensors")
    assert {name: site.aliases for name, site in opened.sites.items()} == {
        "embed": ("head",), "turned": (), "same": (),
    }  # fmt: skip
    assert opened.stored("head", 1, 3).tolist() == [1, 2]


def test_all_that_is_no_tensor_is_named(tmp_path: Path) -> None:
    inner = {"w": torch.ones(2), "_extra": b"x", "version": 3}
    value = {"epoch": 7, "state_dict": inner, "optimizer": {"step": 1, "lr": 0.1}, 5: None}
    answer = here(tmp_path, value)
    assert answer["under"] == "state_dict"
    assert answer["tensors"] == ["w"]
    assert answer["left"] == [
        "epoch (int '7')", "optimizer (dict of 2)", "5 (NoneType)", "state_dict._extra (bytes)",
        "state_dict.version (int '3')",
    ]  # fmt: skip


def test_a_key_says_where_the_tensors_are(tmp_path: Path) -> None:
    value = {"ema": {"w": torch.ones(2)}, "net": {"w": torch.zeros(2)}}
    with pytest.raises(unpickle.RefusedError, match="say which with --key: 'ema', 'net'"):
        here(tmp_path, value)
    with pytest.raises(unpickle.RefusedError, match="no tensors under 'emma'; say which"):
        here(tmp_path, value, key="emma")
    assert here(tmp_path, value, key="ema")["left"] == ["net (dict of 1)"]
    assert read_state(tmp_path / "x.safetensors")["w"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"w": torch.eye(2).to_sparse()}, "'w' is sparse; save it dense"),
        ({"w": torch.ones(2, device="meta")}, "'w' has no values"),
        ({"w": torch.ones(2, dtype=torch.complex128)}, "'w' is complex128, which safetensors"),
        ({"__metadata__": torch.ones(2)}, "'__metadata__' cannot be a tensor's name"),
        ({"a" * 20_000: torch.ones(2)}, "has a name of 20,000 letters"),
        ({"w": torch.ones(1).expand(1 << 40)}, "its tensors claim 4,398,046,511,104 bytes"),
        ([torch.ones(2)], "it holds list of 1 and no tensors by name"),
        ({"epoch": 3}, "it has no tensors by name"),
    ],
)
def test_what_safetensors_cannot_hold_is_said(tmp_path: Path, value: Any, said: str) -> None:
    with pytest.raises(unpickle.RefusedError, match=said):
        here(tmp_path, value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pt"]


def sharded(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate("ab", 1):
        state = {name: torch.full((3,), float(number))}
        torch.save(state, folder / f"pytorch_model-0000{number}-of-00002.bin")
    placed = {name: f"pytorch_model-0000{n}-of-00002.bin" for n, name in enumerate("ab", 1)}
    _place(folder, placed)
    (folder / "config.json").write_text("{}", "utf-8")
    return folder


def _place(folder: Path, placed: dict[str, Any]) -> None:
    index = json.dumps({"weight_map": placed})
    (folder / "pytorch_model.bin.index.json").write_text(index, "utf-8")


@pytest.mark.usefixtures("at_once")
def test_shards_become_shards_with_their_index(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model")
    found = convert(folder, tmp_path / "out")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert [file.name for file in found.files] == ["config.json", *names, INDEX]
    assert json.loads((tmp_path / "out" / INDEX).read_text("utf-8")) == {
        "metadata": {"total_size": 24}, "weight_map": dict(zip("ab", names, strict=True)),
    }  # fmt: skip
    assert open_checkpoint(tmp_path / "out").stored("b", 0, 3).tolist() == [2, 2, 2]
    assert convert(folder).files[-1] == folder / INDEX
    np.testing.assert_array_equal(open_checkpoint(folder).stored("a", 0, 3), np.ones(3))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("placed", "said"),
    [
        ({"a": "../pytorch_model-00001-of-00002.bin"}, "may name .bin files beside it"),
        ({"a": "/etc/passwd"}, "may name .bin files beside it"),
        ({"a": "pytorch_model-00001-of-00002.bin"}, None),
        ({"a": "pytorch_model-00003-of-00002.bin"}, "pytorch_model-00003-of-00002.bin is missing"),
        (
            {"a": "pytorch_model-00001-of-00002.bin", "c": "pytorch_model-00002-of-00002.bin"},
            "'c' is in no file; 'b' is not in the index",
        ),
        ({}, "no weight_map in it"),
    ],
)
def test_an_index_of_pickles_that_lies_is_refused(
    tmp_path: Path, placed: dict[str, Any], said: str | None
) -> None:
    folder = sharded(tmp_path / "model")
    _place(folder, placed)
    if said is None:
        assert convert(folder, tmp_path / "out").tensors == 1
        return
    with pytest.raises(DamagedError, match=said):
        convert(folder, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.usefixtures("at_once")
def test_files_get_the_names_that_libraries_look_for(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DamagedError, match=r"plait convert .*pytorch_model\.bin"):
        open_checkpoint(tmp_path)
    assert convert(tmp_path).files == (tmp_path / "model.safetensors",)
    assert list(open_checkpoint(tmp_path).sites) == ["w"]
    with pytest.raises(FolderError, match=r"model\.safetensors is there already"):
        convert(tmp_path / "pytorch_model.bin")
    assert convert(tmp_path, replace=True).tensors == 1


@pytest.mark.usefixtures("at_once")
def test_what_cannot_be_converted_is_said(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="there is no such file or folder"):
        convert(tmp_path / "nothing")
    with pytest.raises(DamagedError, match=r"no pickled weights in it \(\*\.bin"):
        convert(tmp_path)
    for name in ("a.pt", "b.pt"):
        torch.save({"w": torch.ones(2)}, tmp_path / name)
    with pytest.raises(DamagedError, match=r"several pickles \(a\.pt, b\.pt\); name the one"):
        convert(tmp_path)
    convert(tmp_path / "a.pt")
    with pytest.raises(DamagedError, match="is no pickle; it is safetensors already"):
        convert(tmp_path / "a.safetensors")


def test_memory_is_limited(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1 << 22)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(DamagedError, match=r"takes more than 0\.0 GiB; --memory allows more"):
        convert(tmp_path / "x.pt", memory=1 << 23)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_time_is_limited(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "x.pt")
    with pytest.raises(DamagedError, match=r"not read within 0\.01 s; --time allows more"):
        convert(tmp_path / "x.pt", seconds=0.01)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_a_damaged_file_or_a_program_is_one_sentence() -> None:
    told = unpickle.explained(RuntimeError("PytorchStreamReader failed\nmore"))
    assert told == "not readable as a file of tensors: PytorchStreamReader failed"
    assert "ask for a state dict" in unpickle.explained(RuntimeError("a TorchScript archive"))


def test_a_program_of_the_system_is_named(tmp_path: Path) -> None:
    class Shell:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    with pytest.raises(pickle.UnpicklingError) as error:
        here(tmp_path, {"w": torch.ones(2), "x": Shell()})
    assert f"it holds an object ({os.name}.system) that takes" in unpickle.explained(error.value)
    assert not (tmp_path / "ran").exists()
