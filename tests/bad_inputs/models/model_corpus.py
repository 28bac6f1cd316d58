"""Bad model folders, each with what is told of it.

A case is a name, the model it starts from, what is done to its folder, and parts of the message: the
file, the tensor or key, and the fix. Folders are sealed again afterwards, so that the check of
hashes does not hide the one that is meant; the cases in ``UNSEALED`` are not.
"""

# A case is easier to read with its message on one line.
# ruff: noqa: E501

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, safe_open, save_file

Damage = Callable[[Path], object]
Case = tuple[str, str, Damage, tuple[str, ...]]

AGAIN = "copy the file again"
WEIGHTS = "network/model.safetensors"
TENSOR = "heads.banks.binary.weight"


def load_file(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file that is about to be overwritten, and so must not be mapped."""
    return load(path.read_bytes())


def edit(name: str, change: Callable[[Any], object]) -> Damage:
    """Change a JSON file of the folder in place."""

    def run(folder: Path) -> None:
        told = json.loads((folder / name).read_text("utf-8"))
        change(told)
        (folder / name).write_text(json.dumps(told), "utf-8")

    return run


def put(name: str, data: bytes | str) -> Damage:
    """Replace a file."""
    return lambda folder: (folder / name).write_bytes(
        data if isinstance(data, bytes) else data.encode()
    )


def drop(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def header(change: Callable[[dict[str, Any]], object], data: bytes | None = None) -> Damage:
    """Change the header of the weights; offsets stay relative to what follows it."""

    def run(folder: Path) -> None:
        whole = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", whole[:8])
        told = json.loads(whole[8 : 8 + length])
        change(told)
        text = json.dumps(told).encode()
        rest = whole[8 + length :] if data is None else data
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + rest)

    return run


def raw(change: Callable[[bytes], bytes], name: str = WEIGHTS) -> Damage:
    """Change the bytes of a file."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def tensors(change: Callable[[dict[str, torch.Tensor]], object], name: str = WEIGHTS) -> Damage:
    """Change tensors, and write a sound file of them."""

    def run(folder: Path) -> None:
        with safe_open(folder / name, framework="pt") as file:
            metadata = file.metadata()
        found = load_file(folder / name)
        change(found)
        save_file(found, folder / name, metadata=metadata)

    return run


def config(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change the configuration kept in the weights' metadata."""

    def run(folder: Path) -> None:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            told = json.loads(file.metadata()["plait"])
        change(told)
        save_file(
            load_file(folder / WEIGHTS), folder / WEIGHTS, metadata={"plait": json.dumps(told)}
        )

    return run


def frozen(file: str, sha256: str = "0" * 64) -> Damage:
    return config(lambda told: told.update(frozen={"file": file, "sha256": sha256}))


def other_frozen(folder: Path) -> None:
    """Frozen weights of the right name and other contents."""
    save_file({"x": torch.zeros(1)}, folder / "network" / f"frozen-{'0' * 16}.safetensors")
    frozen(f"frozen-{'0' * 16}.safetensors")(folder)


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / WEIGHTS)


def twice(text: bytes) -> bytes:
    """The first tensor of a header named again."""
    (length,) = struct.unpack("<Q", text[:8])
    told = text[8 : 8 + length].strip()
    name = json.loads(told)
    first = next(key for key in name if key != "__metadata__")
    more = told[:-1] + f", {json.dumps(first)}: {json.dumps(name[first])}}}".encode()
    return struct.pack("<Q", len(more)) + more + text[8 + length :]


def moved(places: Callable[[list[int]], list[int]]) -> Damage:
    """Change where one tensor begins and ends."""
    return header(lambda h: h[TENSOR].update(data_offsets=places(h[TENSOR]["data_offsets"])))


def nan(found: dict[str, torch.Tensor], name: str = TENSOR) -> None:
    found[name].flatten()[0] = float("nan")


UNSEALED: list[Case] = [
    ("an edited file", "network", edit("model.json", lambda m: m["evidence"].update(best_pass=9)), ("model.json (altered)",)),
    ("an edited tensor", "network", tensors(lambda t: t[TENSOR].add_(1)), (f"{WEIGHTS} (altered)",)),
    ("a lost file", "network", drop("preparation.json"), ("preparation.json (missing)",)),
    ("an edited README", "network", put("README.md", "better than ever"), ("README.md (altered)",)),
    ("a manifest that is cut", "network", raw(lambda b: b[:40], "manifest.json"), ("manifest.json", "not readable as JSON")),
    ("a manifest of nothing", "network", put("manifest.json", "[]"), ("manifest.json: not a manifest",)),
    ("a manifest without hashes", "network", edit("manifest.json", lambda m: m["files"].update({"model.json": {}})), ("manifest.json", "bytes")),
    ("a manifest that looks elsewhere", "network", edit("manifest.json", lambda m: m["files"].update({"../x": {"bytes": 0, "sha256": ""}})), ("../x (outside the folder)",)),
]  # fmt: skip

JSON: list[Case] = [
    ("no model.json", "network", drop("model.json"), ("holds no model: there is no model.json",)),
    ("model.json cut", "network", raw(lambda b: b[:50], "model.json"), ("model.json: not readable as JSON", AGAIN)),
    ("model.json empty", "network", put("model.json", ""), ("model.json: not readable as JSON", AGAIN)),
    ("model.json a list", "network", put("model.json", "[]"), ("model.json: a list where a mapping must be",)),
    ("model.json in no UTF-8", "network", put("model.json", b"\xff\xfe{}"), ("model.json: not readable as JSON", AGAIN)),
    ("model.json nested without end", "network", put("model.json", "[" * 100_000), ("model.json: not readable as JSON", "recursion")),
    ("a key twice", "network", raw(lambda b: b.replace(b"{", b'{"sort": "bundle",', 1), "model.json"), ("model.json: the key 'sort' stands there twice",)),
    ("a newer format", "network", edit("model.json", lambda m: m.update(format=2)), ("model.json: format 2", "pip install -U plait")),
    ("no format", "network", edit("model.json", lambda m: m.pop("format")), ("model.json: format None", AGAIN)),
    ("an unknown sort", "network", edit("model.json", lambda m: m.update(sort="oracle")), ("no model of sort 'oracle'", AGAIN)),
    ("no tasks", "network", edit("model.json", lambda m: m.pop("tasks")), ("model.json: no key 'tasks'",)),
    ("an empty list of tasks", "network", edit("model.json", lambda m: m.update(tasks=[])), ("model.json: a study needs at least one task",)),
    ("an unknown kind of task", "network", edit("model.json", lambda m: m["tasks"][0].update(kind="binray")), ("model.json: no kind 'binray'; did you mean 'binary'",)),
    ("a task without a name", "network", edit("model.json", lambda m: m["tasks"][0].pop("name")), ("model.json", "'name'")),
    ("a task with a new field", "network", edit("model.json", lambda m: m["tasks"][0].update(colour=1)), ("model.json", "'colour'")),
    ("a task twice", "network", edit("model.json", lambda m: m["tasks"].append(m["tasks"][0])), ("task names must be unique; given twice: click",)),
    ("tasks of another model", "network", edit("model.json", lambda m: m["tasks"][0].update(name="clack")), ("model.json: its tasks are not those of the files beside it",)),
    ("classes cut", "network", edit("model.json", lambda m: m["tasks"][2]["classes"].pop()), ("model.json: its tasks are not those",)),
    ("a scale of nothing", "network", edit("model.json", lambda m: m["tasks"][1].update(scale=0)), ("task 'price': scale must be positive",)),
    ("no evidence", "network", edit("model.json", lambda m: m.pop("evidence")), ("model.json: no key 'evidence'",)),
    ("no preparation.json", "network", drop("preparation.json"), ("preparation.json is missing", AGAIN)),
    ("a newer preparation", "network", edit("preparation.json", lambda p: p.update(version=2)), ("preparation.json: version 2", "pip install -U plait")),
    ("a vocabulary that is cut", "network", edit("preparation.json", lambda p: p["encodings"][1]["categorical"]["values"][0].pop()), ("preparation.json: 'categorical' has sizes (3,) where the model reads (4,)", "cut")),
    ("a column less", "network", edit("preparation.json", lambda p: [p["encodings"][0]["numeric"][k].pop() for k in ("roles", "center", "scale")]), ("preparation.json: 'numeric' has shape",)),
    ("an unknown encoding", "network", edit("preparation.json", lambda p: p["encodings"].append({"sound": {}})), ("preparation.json: no key 'sound'",)),
    ("no encodings", "network", edit("preparation.json", lambda p: p.update(encodings=[])), ("preparation.json: the model reads 'numeric', which is not there",)),
    ("no routes", "network", edit("preparation.json", lambda p: p.update(routes={})), ("preparation.json: nothing is said about the task 'click'",)),
    ("a route to no table", "network", edit("preparation.json", lambda p: p["routes"]["click"].update(table="tabel")), ("preparation.json: 'click' names the table 'tabel'",)),
    ("no about.json", "network", drop("about.json"), ("about.json is missing", AGAIN)),
]  # fmt: skip

FILES: list[Case] = [
    ("no weights", "network", drop(WEIGHTS), ("model.safetensors is missing",)),
    ("cut by ten bytes", "network", raw(lambda b: b[:-10]), (WEIGHTS, "cut short", AGAIN)),
    ("cut in the header", "network", raw(lambda b: b[:100]), (WEIGHTS, "not a whole safetensors file (100 bytes", AGAIN)),
    ("cut to five bytes", "network", raw(lambda b: b[:5]), (WEIGHTS, "not a whole safetensors file (5 bytes", AGAIN)),
    ("empty", "network", put(WEIGHTS, b""), (WEIGHTS, "not a whole safetensors file (0 bytes", AGAIN)),
    ("trailing bytes", "network", raw(lambda b: b + b"more"), (WEIGHTS, "4 bytes follow the last tensor")),
    ("a header without end", "network", raw(lambda b: b"\xff" * 7 + b"\x7f" + b[8:]), (WEIGHTS, "its header claims 9223372036854775807")),
    ("a header that is no JSON", "network", put(WEIGHTS, struct.pack("<Q", 8) + b"not json"), (WEIGHTS, "its header is not readable")),
    ("a header that is a list", "network", put(WEIGHTS, struct.pack("<Q", 2) + b"[]"), (WEIGHTS, "its header is no list of tensors")),
    ("a header nested without end", "network", put(WEIGHTS, struct.pack("<Q", 99_999) + b"[" * 99_999), (WEIGHTS, "its header is not readable")),
    ("a name twice", "network", raw(twice), (WEIGHTS, "its header names", "twice")),
    ("tensors that overlap", "network", moved(lambda at: [at[0] - 4, at[1] - 4]), (WEIGHTS, "overlaps")),
    ("bytes of nobody", "network", header(lambda h: h.pop(TENSOR)), (WEIGHTS, "are nobody's")),
    ("offsets backwards", "network", moved(lambda at: [at[1], at[0]]), (WEIGHTS, TENSOR)),
    ("offsets below zero", "network", moved(lambda at: [-4, at[1]]), (WEIGHTS, TENSOR)),
    ("an unknown type", "network", header(lambda h: h[TENSOR].update(dtype="F7")), (WEIGHTS, f"{TENSOR!r} has the type 'F7'")),
    ("a shape too large", "network", header(lambda h: h[TENSOR].update(shape=[2**40])), (WEIGHTS, f"{TENSOR!r} has", "bytes where F32 [1099511627776] takes")),
    ("a shape below zero", "network", header(lambda h: h[TENSOR].update(shape=[-1])), (WEIGHTS, f"{TENSOR!r} has the shape [-1]")),
    ("a shape of text", "network", header(lambda h: h[TENSOR].update(shape=["x"])), (WEIGHTS, f"{TENSOR!r} has the shape ['x']")),
    ("no offsets", "network", header(lambda h: h[TENSOR].pop("data_offsets")), (WEIGHTS, f"does not say what {TENSOR!r} is")),
    ("metadata of numbers", "network", header(lambda h: h.update(__metadata__={"plait": 1})), (WEIGHTS, "its metadata are not text")),
    ("a pickle of torch", "network", pickled, (WEIGHTS, "is a pickle", "can run any program", "plait convert")),
    ("a bare pickle", "network", put(WEIGHTS, pickle.dumps({"a": 1})), (WEIGHTS, "is a pickle", "plait convert")),
    ("a tensor less", "network", tensors(lambda t: t.pop(TENSOR)), (WEIGHTS, f"missing {TENSOR}")),
    ("a tensor more", "network", tensors(lambda t: t.update(extra=torch.zeros(1))), (WEIGHTS, "unknown extra")),
    ("another shape", "network", tensors(lambda t: t.update({TENSOR: torch.zeros(2, 1, 3)})), (WEIGHTS, f"{TENSOR} has shape (2, 1, 3), not")),
    ("whole numbers", "network", tensors(lambda t: t.update({TENSOR: t[TENSOR].long()})), (WEIGHTS, f"{TENSOR} has type torch.int64, not torch.float32")),
    ("one tensor of another type", "network", tensors(lambda t: t.update({TENSOR: t[TENSOR].double()})), (WEIGHTS, "torch.float64")),
    ("NaN", "network", tensors(nan), (WEIGHTS, f"{TENSOR} holds NaN")),
    ("infinite", "network", tensors(lambda t: t[TENSOR].fill_(float("inf"))), (WEIGHTS, f"{TENSOR} holds NaN or infinite")),
    ("weights of another program", "network", lambda f: save_file(load_file(f / WEIGHTS), f / WEIGHTS), (WEIGHTS, "was not written by plait")),
    ("a newer network", "network", config(lambda c: c.update(format=2)), (WEIGHTS, "format 2", "pip install -U plait")),
    ("an unknown network", "network", config(lambda c: c.update(kind="tower")), (WEIGHTS, "no kind of network 'tower'")),
    ("a network without its encoder", "network", config(lambda c: c.pop("encoder")), (WEIGHTS, "its configuration lacks 'encoder'")),
    ("an unknown way to share", "network", config(lambda c: c.update(sharing="hrad")), (WEIGHTS, "'hrad'", "did you mean 'hard'")),
    ("a wider network", "network", config(lambda c: c["encoder"]["trunk"]["mlp"].update(width=9)), (WEIGHTS, "has shape")),
    ("frozen weights outside", "network", frozen("../../../../etc/passwd"), (WEIGHTS, "not a name for frozen weights", "etc/passwd")),
    ("frozen weights at a root", "network", frozen(f"/tmp/frozen-{'0' * 16}.safetensors"), (WEIGHTS, "not a name for frozen weights")),
    ("frozen weights on a drive", "network", frozen(f"C:\\frozen-{'0' * 16}.safetensors"), (WEIGHTS, "not a name for frozen weights")),
    ("frozen weights that are lost", "network", frozen(f"frozen-{'0' * 16}.safetensors"), ("frozen weights are missing", "move them along")),
    ("frozen weights of another model", "network", other_frozen, ("these are not the frozen weights that",)),
]  # fmt: skip

LINEAR, TREES = "linear.safetensors", "forests.safetensors"

PLAIN: list[Case] = [
    ("a linear NaN", "linear", tensors(lambda t: nan(t, "weight.click"), LINEAR), (f"{LINEAR}: 'weight.click' holds NaN",)),
    ("a linear map less", "linear", tensors(lambda t: t.pop("weight.click"), LINEAR), ("model.json", "'click'")),
    ("a linear map too narrow", "linear", tensors(lambda t: t.update({"weight.click": t["weight.click"][:, 1:].clone()}), LINEAR), ("model.json", AGAIN)),
    ("a linear map of two classes", "linear", tensors(lambda t: t.update({"weight.grade": t["weight.grade"][:2].clone(), "intercept.grade": t["intercept.grade"][:2].clone()}), LINEAR), ("model.json", "'grade'", "classes")),
    ("linear weights cut", "linear", raw(lambda b: b[:-1], LINEAR), (LINEAR, "cut short")),
    ("linear weights lost", "linear", drop(LINEAR), (f"{LINEAR} is missing",)),
    ("a task without its pool", "linear", edit("model.json", lambda m: m["pools"].pop()), ("model.json", "'grade'")),
    ("an unknown estimator", "linear", edit("model.json", lambda m: m.update(estimators="oracle")), ("model.json: no key 'oracle'",)),
    ("a tree in a ring", "forest", tensors(lambda t: t["left.click"].masked_fill_(t["left.click"] > 0, 0), TREES), (TREES, "a tree of the forest points outside itself")),
    ("a tree that leaves", "forest", tensors(lambda t: t["left.click"].masked_fill_(t["left.click"] > 0, 10**6), TREES), (TREES, "points outside itself")),
    ("a tree on no column", "forest", tensors(lambda t: t["feature.click"].masked_fill_(t["feature.click"] >= 0, 999), TREES), ("model.json", AGAIN)),
    ("a tree without leaves", "forest", tensors(lambda t: t.pop("value.click"), TREES), ("model.json", "value")),
    ("boosted trees lost", "boosting", drop("booster-0.txt"), ("booster-0.txt is missing",)),
    ("boosted trees elsewhere", "boosting", edit("boosters.json", lambda b: b.update(click="../booster-0.txt")), ("not plain file names: ['../booster-0.txt']",)),
    ("boosted trees of nothing", "boosting", put("booster-0.txt", "tree\n"), ("model.json", AGAIN)),
    ("a member lost", "bundle", lambda f: shutil.rmtree(f / "members" / "1"), ("a member is missing: 1",)),
    ("a member that is damaged", "bundle", raw(lambda b: b[:-1], f"members/0/{WEIGHTS}"), ("members/0/network/model.safetensors", "cut short")),
    ("members by name", "bundle", edit("model.json", lambda m: m.update(members="two")), ("model.json", AGAIN)),
    ("a member twice", "bundle", lambda f: (shutil.rmtree(f / "members" / "1"), shutil.copytree(f / "members" / "0", f / "members" / "1")), ("model.json: every task of a bundle must belong to exactly one",)),
    ("a module that is not there", "foreign", config(lambda c: c["encoder"].update(module="no_such_package:Mine")), (WEIGHTS, "cannot load the module 'no_such_package:Mine'", "install the package")),
    ("a class that is not there", "foreign", config(lambda c: c["encoder"].update(module="own_module:Yours")), (WEIGHTS, "cannot load the module 'own_module:Yours'")),
    ("a class that is no module", "foreign", config(lambda c: c["encoder"].update(module="pathlib:Path")), (WEIGHTS, "'pathlib:Path' is not a torch.nn.Module class")),
    ("a function of the system", "foreign", config(lambda c: c["encoder"].update(module="os:system", settings={"command": "true"})), (WEIGHTS, "'os:system' is not a torch.nn.Module class")),
]  # fmt: skip

CASES = [*JSON, *FILES, *PLAIN]
