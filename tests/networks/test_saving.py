from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from plait.adapting import Lora, build_adapted
from plait.networks import Network, build_network, saving
from plait.networks.side_by_side import build_side_by_side
from plait.sharing import Hard, Mmoe
from plait.task import Task, TaskSet
from plait.testing.toys import toy_batch, toy_inputs

NAMES = ["type", "NR.AR", "a/b", "größe 😀", "..", "%2E", "keys"]
TASKS = TaskSet(
    [*(Task(name=name) for name in NAMES), Task(name="forward", kind="real", center=3, scale=2)]
)
SETTINGS = {"inputs": toy_inputs(), "tasks": TASKS, "encoder": {"trunk": {"mlp": {"width": 8}}}}


def make(kind):
    if kind == "side_by_side":
        return build_side_by_side(**SETTINGS, seed=3)
    net = build_network(
        **SETTINGS, sharing=Mmoe(experts=2, width=4) if kind == "mmoe" else Hard(), seed=3
    )
    if kind != "adapted":
        return net
    net = build_adapted(net, Lora(rank=2), seed=1)
    for parameter in net.trunk.banks.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    return net


@pytest.mark.parametrize("kind", ["hard", "mmoe", "side_by_side", "adapted"])
def test_a_network_comes_back_exactly(kind, tmp_path):
    net, batch = make(kind), toy_batch(TASKS)
    net.save_pretrained(tmp_path)
    again = type(net).from_pretrained(tmp_path)
    assert again.tasks == net.tasks
    assert again.config == net.config == json.loads(json.dumps(net.config))
    ours, theirs = net.predict(batch.parts, batch.labels), again.predict(batch.parts, batch.labels)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert [p.requires_grad for p in again.parameters()] == [
        p.requires_grad for p in net.parameters()
    ]
    again.save_pretrained(tmp_path / "again")
    assert Network.from_pretrained(tmp_path / "again").config == net.config


def test_another_process_reads_it(tmp_path):
    net, batch = make("mmoe"), toy_batch(TASKS)
    net.save_pretrained(tmp_path)
    code = (
        "import sys, torch\n"
        "from plait.networks import Network\n"
        "from plait.testing.toys import toy_batch\n"
        "net = Network.from_pretrained(sys.argv[1])\n"
        "batch = toy_batch(net.tasks)\n"
        "found = net.predict(batch.parts, batch.labels)\n"
        "torch.save(found['binary'], sys.argv[1] + '/found.pt')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert torch.equal(found, net.predict(batch.parts, batch.labels)["binary"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_is_kept(dtype, tmp_path):
    net = make("hard").to(dtype)
    net.save_pretrained(tmp_path)
    again = Network.from_pretrained(tmp_path)
    state, found = net.state_dict(), again.state_dict()
    assert all(found[n].dtype == state[n].dtype and torch.equal(found[n], state[n]) for n in state)
    assert all(p.grad is None and p.requires_grad for p in again.parameters())


def test_the_files_are_readable_without_plait(tmp_path):
    make("hard").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert [task["name"] for task in config["tasks"]] == list(TASKS.names)
    assert load_file(tmp_path / "model.safetensors")["heads.banks.binary.weight"].shape[0] == 7
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def test_a_save_that_fails_leaves_the_old_network_whole(tmp_path, monkeypatch):
    old = make("hard")
    old.save_pretrained(tmp_path)
    new = make("mmoe")

    def torn(tensors, path, metadata=None):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "save_file", torn)
    with pytest.raises(OSError, match="No space"):
        new.save_pretrained(tmp_path)
    monkeypatch.undo()
    assert Network.from_pretrained(tmp_path).config == old.config
    assert len(list(tmp_path.iterdir())) == 2


def test_a_kill_between_the_files_leaves_one_whole_network(tmp_path, monkeypatch):
    make("hard").save_pretrained(tmp_path)
    new = make("mmoe")
    monkeypatch.setattr(saving, "write_json", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        new.save_pretrained(tmp_path)
    assert Network.from_pretrained(tmp_path).config == new.config


def test_networks_can_keep_one_copy_of_what_is_frozen(tmp_path):
    net, batch = make("adapted"), toy_batch(TASKS)
    other = make("adapted")
    other.heads.banks["binary"].get_parameter("bias").data += 1
    third = make("adapted")
    next(p for p in third.parameters() if not p.requires_grad).data += 1
    net.save_pretrained(tmp_path / "a", frozen=tmp_path / "common")
    other.save_pretrained(tmp_path / "b", frozen=tmp_path / "common")
    assert len(list((tmp_path / "common").iterdir())) == 1
    third.save_pretrained(tmp_path / "c", frozen=tmp_path / "common")
    assert len(list((tmp_path / "common").iterdir())) == 2
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("a", "b", "common"):
        (tmp_path / name).rename(moved / name)
    found = Network.from_pretrained(moved / "b").predict(batch.parts, batch.labels)
    assert torch.equal(found["binary"], other.predict(batch.parts, batch.labels)["binary"])
    for path in (moved / "common").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="frozen weights are missing"):
        Network.from_pretrained(moved / "b")


def test_faulty_folders_are_refused_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        Network.from_pretrained(tmp_path)
    make("hard").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="damaged"):
        Network.from_pretrained(tmp_path)
    torch_tensors = load_file_bytes(whole)
    saving.save_file(torch_tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not written by plait"):
        Network.from_pretrained(tmp_path)


def load_file_bytes(data):
    from safetensors.torch import load

    return load(data)


def test_tensors_that_do_not_fit_are_all_listed(tmp_path):
    net = make("hard")
    net.save_pretrained(tmp_path)
    tensors, metadata = saving._read(tmp_path / "model.safetensors")
    tensors["extra"] = tensors.pop("heads.banks.binary.bias")
    tensors["heads.banks.real.bias"] = torch.zeros(7)
    saving.save_file(tensors, tmp_path / "model.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=r"real\.bias has shape .*missing heads.*unknown extra"):
        Network.from_pretrained(tmp_path)


def test_the_wrong_kind_and_a_newer_format_are_refused(tmp_path):
    from plait.networks.side_by_side import SideBySide

    net = make("hard")
    net.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not a SideBySide"):
        SideBySide.from_pretrained(tmp_path)
    net.config["format"] = 99
    net.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="format 99"):
        Network.from_pretrained(tmp_path)
