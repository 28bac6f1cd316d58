from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from plait.weights.checkpoints import INDEX, open_checkpoint
from plait.weights.files import DamagedError
from plait.weights.states import write_state

STATE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.float32)}


def sharded(folder: Path, places: dict[str, object] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for number, (name, value) in enumerate(STATE.items()):
        write_state(folder / f"{number}.safetensors", {name: value})
    placed = {"a": "0.safetensors", "b": "1.safetensors"} if places is None else places
    (folder / INDEX).write_text(json.dumps({"weight_map": placed}), "utf-8")
    return folder


def read(path: Path, name: str, start: int, stop: int) -> list[float]:
    out = np.empty(stop - start, np.float32)
    open_checkpoint(path).read(name, start, stop, out)
    return out.tolist()


def test_any_run_of_values_is_read(tmp_path: Path) -> None:
    write_state(tmp_path / "model.safetensors", STATE)
    for path in (tmp_path, tmp_path / "model.safetensors", sharded(tmp_path / "shards")):
        assert list(open_checkpoint(path).sites) == ["a", "b"]
        assert read(path, "a", 1, 5) == [1, 2, 3, 4]
        assert read(path, "b", 3, 4) == [3]


def test_half_types_are_widened_exactly(tmp_path: Path) -> None:
    values = torch.randn(1000) * torch.logspace(-20, 20, 1000)
    for kind in (torch.bfloat16, torch.float16):
        path = tmp_path / "m.safetensors"
        own = values.clamp(-6e4, 6e4).to(kind)
        save_file({"w": own}, path)
        assert read(path, "w", 0, 1000) == own.float().tolist()


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({"a": "../0.safetensors"}, "may name safetensors files beside it and nothing else"),
        ({"a": "/etc/x.safetensors"}, "may name safetensors files beside it"),
        ({"a": "C:\\x.safetensors"}, "may name safetensors files beside it"),
        ({"a": "sub/0.safetensors"}, "may name safetensors files beside it"),
        ({"a": "0.bin"}, "may name safetensors files beside it"),
        ({"a": 3}, "may name safetensors files beside it"),
        ({"a": ".hidden.safetensors"}, "may name safetensors files beside it"),
        ({"a": "0.safetensors", "c": "1.safetensors"}, "'b' of 1.safetensors is not in the index"),
        ({"a": "1.safetensors", "b": "1.safetensors"}, "'a' is not in 1.safetensors"),
        ({"a": "0.safetensors", "b": "2.safetensors"}, "2.safetensors is missing"),
        ({}, "no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, places: dict, said: str) -> None:
    with pytest.raises(DamagedError, match=said):
        open_checkpoint(sharded(tmp_path, places))


def test_two_shards_with_one_tensor_are_refused(tmp_path: Path) -> None:
    sharded(tmp_path)
    write_state(tmp_path / "1.safetensors", STATE)
    with pytest.raises(DamagedError, match=r"'a' is in 0\.safetensors and in 1\.safetensors"):
        open_checkpoint(tmp_path)


def test_links_lead_nowhere_but_to_the_hubs_own_blobs(tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    write_state(outside, STATE)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(outside)
    with pytest.raises(DamagedError, match="a link out of its folder"):
        open_checkpoint(folder)
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "1f"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    outside.rename(blobs / "77")
    (snapshot / "model.safetensors").symlink_to(blobs / "77")
    assert read(snapshot, "b", 0, 2) == [0, 1]


def test_what_is_no_checkpoint_is_said(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="there is no such file or folder"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(DamagedError, match="no weights in it"):
        open_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(DamagedError, match=r"a pickle .* plait convert"):
        open_checkpoint(tmp_path)
    write_state(tmp_path / "x.safetensors", STATE)
    write_state(tmp_path / "y.safetensors", STATE)
    with pytest.raises(DamagedError, match=r"several safetensors files \(x"):
        open_checkpoint(tmp_path)


def test_a_file_cut_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_state(path, STATE)
    opened = open_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DamagedError, match="became shorter"):
        opened.stored("b", 0, 4)


def test_tied_names_are_aliases(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    both = torch.nn.ModuleDict({"head": layer, "embed": layer})
    from safetensors.torch import save_model

    save_model(both, str(tmp_path / "m.safetensors"))
    sites = open_checkpoint(tmp_path / "m.safetensors").sites
    assert {name: site.aliases for name, site in sites.items()} == {
        "embed.weight": ("head.weight",),
        "embed.bias": ("head.bias",),
    }
