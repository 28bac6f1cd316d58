"""Networks as folders: safetensors and JSON, no pickle, whole after any crash.

``model.safetensors`` is the truth and replaced in one piece: its metadata hold the configuration
from which an equal network is built. ``config.json`` is a readable copy. Task names are data in the
configuration, never names of tensors or files, so any name is safe. Frozen tensors stand in a file
named by its contents, which many networks can share.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from plait.networks.network import Network
from plait.weights.files import replacing, write_json

FORMAT = 1
MODEL = "model.safetensors"
CONFIG = "config.json"

# The kinds of network and what rebuilds them; by name, for `adapting` stands above this room.
REBUILD: Mapping[str, str] = {
    "network": "plait.networks.network",
    "side_by_side": "plait.networks.side_by_side",
    "adapted": "plait.adapting.adapted",
}


def save(network: Network, folder: Path, frozen: Path | None = None) -> None:
    """Write a network; see :meth:`Network.save_pretrained`."""
    folder.mkdir(parents=True, exist_ok=True)
    own, still = _tensors(network)
    config: dict[str, Any] = {"format": FORMAT, **network.config}
    if still:
        config["frozen"] = _save_frozen(still, folder, frozen or folder)
    metadata = {"format": "pt", "plait": json.dumps(config, ensure_ascii=False)}
    with replacing(folder / MODEL) as path:
        save_file(own, path, metadata=metadata)
    write_json(folder / CONFIG, config)


def load(folder: Path) -> Network:
    """Read a network; ``ValueError`` names the file and what is wrong with it."""
    path = folder / MODEL
    if not path.is_file():
        raise ValueError(f"no network in {folder}: {MODEL} is missing")
    tensors, metadata = _read(path)
    if "plait" not in metadata:
        raise ValueError(f"{path} was not written by plait: its metadata hold no configuration")
    config = json.loads(metadata["plait"])
    if config.get("format") != FORMAT:
        raise ValueError(f"{path} has format {config.get('format')}; this plait reads {FORMAT}")
    still = config.pop("frozen", None)
    if still:
        tensors |= _read_frozen(folder / still["file"], still["sha256"])
    del config["format"]
    network = rebuild(config)
    network.config = config
    _fill(network, tensors, path)
    return network


def rebuild(config: Mapping[str, Any]) -> Network:
    """A network of the shape that a ``config`` describes; ``ValueError`` for an unknown kind."""
    if config.get("kind") not in REBUILD:
        raise ValueError(f"no kind of network {config.get('kind')!r}; a newer plait wrote it")
    make: Callable[[Mapping[str, Any]], Network] = import_module(REBUILD[config["kind"]]).rebuild
    return make(config)


def _tensors(network: Network) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's tensors, trained and frozen; a tensor with several names appears once."""
    kept = network.state_dict(keep_vars=True)
    own: dict[str, Tensor] = {}
    still: dict[str, Tensor] = {}
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        if name in kept:
            fixed = isinstance(tensor, torch.nn.Parameter) and not tensor.requires_grad
            (still if fixed else own)[name] = tensor.detach().cpu().contiguous()
    return own, still


def _save_frozen(tensors: dict[str, Tensor], folder: Path, place: Path) -> dict[str, str]:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    path = place / f"frozen-{digest.hexdigest()[:16]}.safetensors"
    if not path.exists():
        place.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(tensors, temporary)
    relative = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return {"file": relative, "sha256": digest.hexdigest()}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        size = path.stat().st_size
        raise ValueError(f"{path} ({size} bytes) is damaged: {error}; write it again") from error


def _read_frozen(path: Path, sha256: str) -> dict[str, Tensor]:
    if not path.is_file() or not path.name.startswith(f"frozen-{sha256[:16]}"):
        message = f"the network's frozen weights are missing: {path}; move them along with it"
        raise ValueError(message)
    return _read(path)[0]


def _fill(network: Network, tensors: Mapping[str, Tensor], path: Path) -> None:
    kept = network.state_dict(keep_vars=True)
    both = chain(network.named_parameters(), network.named_buffers())
    own = {name: tensor for name, tensor in both if name in kept}
    wrong = [f"missing {name}" for name in own if name not in tensors]
    wrong += [f"unknown {name}" for name in tensors if name not in own]
    for name in own.keys() & tensors.keys():
        if own[name].shape != tensors[name].shape:
            has, wants = tuple(tensors[name].shape), tuple(own[name].shape)
            wrong.append(f"{name} has shape {has}, not {wants}")
    if wrong:
        raise ValueError(f"{path} does not fit its configuration: {'; '.join(sorted(wrong))}")
    for name, tensor in own.items():
        # Kept in the layout it was built with: products round differently in another.
        tensor.data = torch.empty_like(tensor, dtype=tensors[name].dtype).copy_(tensors[name])
